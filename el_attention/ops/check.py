"""Small calls of the compiled operators on a device, held against the reference on the CPU.

There are more GPUs, drivers and compilers than anybody can test beforehand.  So where a device is
used for the first time `el_attention.ops.trust` makes the `FIRST` of these calls, and the command
`el-attention doctor --gpu` makes `MANY`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from el_attention.ops import reference
from el_attention.ops.reference import Rows

OPERATORS = ("attend", "weights", "block_ngrams_", "log_sum_exp", "top_candidates")
# Scores, weights and sums are computed in float32, or float64 for float64.
ACCURACY = {torch.float64: 1e-11}
WIDE_ACCURACY = 5e-5


@dataclass(frozen=True)
class Size:
    """Sizes of a call of `attend`: sentences, beams, heads, kv_heads, widths, rows of segments."""

    groups: int
    beam: int
    heads: int
    kv_heads: int
    width: int
    value_width: int
    lengths: tuple[int, ...]

    def __str__(self) -> str:
        sizes = f"G{self.groups}-B{self.beam}-H{self.heads}-K{self.kv_heads}-W{self.width}"
        return f"{sizes}-V{self.value_width}-U{'+'.join(map(str, self.lengths))}"


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        attention: sizes of calls of `attend` and `weights`.
        logits: rows, vocabulary, beam and k of calls of the operators of a search.
    """

    attention: tuple[Size, ...]
    logits: tuple[tuple[int, int, int, int], ...]


# One of each kernel of csrc/cuda/launch.h: both tiles of queries, wide slices, one range of rows
# and several; without tensor cores, one kv head and many, elements one by one and in vectors.
FIRST = Effort(
    (
        Size(2, 2, 4, 1, 64, 64, (37, 5)),
        Size(1, 4, 8, 1, 192, 192, (150,)),
        Size(1, 1, 2, 1, 1600, 1600, (20,)),
        Size(2, 3, 4, 4, 16, 16, (70, 3)),
        Size(2, 2, 3, 3, 7, 9, (33,)),
    ),
    ((6, 5000, 3, 6),),
)
MANY = Effort(
    (
        *FIRST.attention,
        Size(3, 5, 2, 1, 128, 128, (33,)),
        Size(8, 4, 8, 1, 512, 512, (1024,)),
        Size(2, 33, 3, 1, 640, 640, (16, 17)),
        Size(4, 5, 12, 1, 768, 768, (129, 16, 1)),
        Size(2, 4, 16, 1, 1024, 1024, (1000, 30, 5)),
        Size(1, 32, 16, 1, 1024, 1024, (300,)),
        Size(2, 1, 20, 1, 1280, 1280, (64, 64)),
        Size(2, 3, 4, 1, 100, 100, (37, 5)),
        Size(8, 4, 16, 16, 64, 64, (1024,)),
        Size(3, 5, 7, 7, 80, 80, (65, 3)),
        Size(2, 3, 4, 1, 24, 40, (50, 2)),
    ),
    (*FIRST.logits, (4, 50265, 4, 8), (128, 50265, 4, 8), (64, 3001, 64, 128)),
)


@dataclass(frozen=True)
class Outcome:
    """What came of the calls of an operator.

    Attributes:
        operator: its name.
        dtype: of the query or the logits.
        calls: how many were made, the one that failed included.
        error: the greatest difference from the reference, in units of what is allowed.
        fault: what was wrong with the last call, or None.
    """

    operator: str
    dtype: torch.dtype
    calls: int
    error: float
    fault: str | None


class _Wrong(Exception):
    """A result differs from the reference."""


def run(
    operator: str,
    device: torch.device,
    dtype: torch.dtype,
    effort: Effort = FIRST,
    operators: Any = None,
) -> Outcome:
    """Calls an operator on a device and compares what it returns.

    Changes no state of random numbers, and waits for the device.

    Args:
        operator: one of OPERATORS.
        device: where it is to run.
        dtype: one of float64, float32, float16 and bfloat16.
        effort: the calls.
        operators: what has the operators as attributes; `torch.ops.el_attention` if None.
    """
    call = getattr(torch.ops.el_attention if operators is None else operators, operator)
    calls, worst = 0, 0.0
    try:
        with torch.no_grad():
            for title, differences in _CASES[operator](call, device, dtype, effort):
                calls += 1
                error = max(differences())
                if not error <= 1:
                    raise _Wrong(f"{title}: {error:.3g} times the difference that is allowed")
                worst = max(worst, error)
    except _Wrong as wrong:
        return Outcome(operator, dtype, calls, math.inf, str(wrong))
    except Exception as error:  # whatever a launch, or waiting for it, may raise
        return Outcome(operator, dtype, calls, math.inf, f"{type(error).__name__}: {error}")
    return Outcome(operator, dtype, calls, worst, None)


_Case = tuple[str, Callable[[], list[float]]]


def _difference(found: Tensor, expected: Tensor, allowed: float) -> float:
    """The greatest difference, in units of allowed x (1 + |expected|), which may be inf or NaN."""
    found = found.cpu().double()
    if found.shape != expected.shape:
        return math.inf
    expected = expected.double()
    same = found == expected  # infinities
    ratio = (found - expected).abs() / (allowed * (1 + expected.abs()))
    return float(ratio.masked_fill(same, 0.0).max()) if ratio.numel() else 0.0


def _accuracy(dtype: torch.dtype) -> float:
    return ACCURACY.get(dtype, WIDE_ACCURACY)


@dataclass(frozen=True)
class _Call:
    """Arguments of `attend` on the CPU; what no beam of a sentence sees is NaN."""

    query: Tensor
    rows: list[Rows]
    visible: Tensor | None
    bias: Tensor | None

    def on(self, device: torch.device) -> list[Any]:
        """The arguments of the operator `attend`, on a device, with a query of strides."""
        by_head = self.query.permute(2, 0, 1, 3).contiguous().to(device).permute(1, 2, 0, 3)
        keys = [segment.keys.to(device) for segment in self.rows]
        values = [
            key if segment.values is segment.keys else segment.values.to(device)
            for key, segment in zip(keys, self.rows, strict=True)
        ]
        columns = [segment.columns.to(device) for segment in self.rows]
        others = [x if x is None else x.to(device) for x in (self.visible, self.bias)]
        return [by_head, keys, values, columns, *others]

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Context, lse and weights by the reference, in float64."""
        rows = [
            Rows(segment.keys.double(), segment.values.double(), segment.columns)
            for segment in self.rows
        ]
        bias = None if self.bias is None else self.bias.double()
        query = self.query.double()
        attended = reference.attend(query, rows, self.visible, bias=bias)
        assert attended.weights is not None
        # ln of the sum of exp(score), from a score and the weight that became of it.
        keys = torch.cat([segment.keys[:, segment.columns] for segment in rows])
        keys = keys.nan_to_num(0.0).permute(1, 2, 3, 0)
        by_head = query.transpose(1, 2).unflatten(1, (keys.size(1), -1)).flatten(2, 3)
        scores = (by_head @ keys).unflatten(2, (-1, query.size(1))).flatten(1, 2).transpose(1, 2)
        if bias is not None:
            scores = scores + bias[:, None]
        if self.visible is not None:
            scores = scores.masked_fill(~self.visible[:, :, None], -math.inf)
        return attended.context, scores.logsumexp(-1), attended.weights


def _calls(dtype: torch.dtype, effort: Effort) -> Iterator[tuple[str, _Call]]:
    """Each size with all rows seen, and with other rows for each beam and a bias."""
    for size in effort.attention:
        for seen in ("all", "by beam"):
            yield f"{size}, rows seen: {seen}", _random_call(size, dtype, seen)


def _random_call(size: Size, dtype: torch.dtype, seen: str) -> _Call:
    random = torch.Generator("cpu").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64, device="cpu")

    query = 2 * normal(size.groups, size.beam, size.heads, size.width) / math.sqrt(size.width)
    total = sum(size.lengths)
    visible = bias = None
    if seen == "by beam":
        draws = torch.rand(size.groups, size.beam, total, generator=random, device="cpu")
        visible = draws < 0.6
        visible[0, 0] = False  # a beam that sees nothing
        bias = normal(size.groups, size.heads, total).to(reference.softmax_dtype(dtype))
    rows, start = [], 0
    for length in size.lengths:
        columns = torch.randperm(size.groups + 1, generator=random, device="cpu")[: size.groups]
        dead = torch.ones(length, size.groups + 1, dtype=torch.bool, device="cpu")
        dead[:, columns] = False
        if visible is not None:
            dead[:, columns] = ~visible[:, :, start : start + length].any(1).t()
        keys = normal(length, size.groups + 1, size.kv_heads, size.width)
        keys = keys.masked_fill(dead[:, :, None, None], math.nan).to(dtype)
        values = keys
        if size.kv_heads > 1 or size.value_width != size.width:
            values = normal(length, size.groups + 1, size.kv_heads, size.value_width)
            values = values.masked_fill(dead[:, :, None, None], math.nan).to(dtype)
        rows.append(Rows(keys, values, columns))
        start += length
    return _Call(query.to(dtype), rows, visible, bias)


def _attend(call: Any, device: torch.device, dtype: torch.dtype, effort: Effort) -> Iterator[_Case]:
    for title, arguments in _calls(dtype, effort):

        def differences(arguments: _Call = arguments) -> list[float]:
            context, lse = call(*arguments.on(device))
            expected, expected_lse, _ = arguments.expected()
            rounding = max(_accuracy(dtype), torch.finfo(dtype).eps)
            return [
                _difference(context, expected, rounding),
                _difference(lse, expected_lse, _accuracy(dtype)),
            ]

        yield title, differences


def _weights(
    call: Any, device: torch.device, dtype: torch.dtype, effort: Effort
) -> Iterator[_Case]:
    for title, arguments in _calls(dtype, effort):

        def differences(arguments: _Call = arguments) -> list[float]:
            query, keys, _, columns, visible, bias = arguments.on(device)
            _, lse, expected = arguments.expected()
            wide = lse.to(device, reference.softmax_dtype(dtype))
            found = call(query, keys, columns, visible, bias, wide)
            return [_difference(found, expected, _accuracy(dtype))]

        yield title, differences


def _block_ngrams(
    call: Any, device: torch.device, dtype: torch.dtype, effort: Effort
) -> Iterator[_Case]:
    random = torch.Generator("cpu").manual_seed(0)
    tokens = torch.randint(4, 7, (6, 90), generator=random, device="cpu")
    lprobs = torch.rand(6, 40, generator=random, device="cpu").to(dtype)
    forced = torch.rand(6, generator=random, device="cpu") < 0.3
    for size, length in ((1, 5), (2, 31), (3, 81)):

        def differences(size: int = size, length: int = length) -> list[float]:
            expected, found = lprobs.clone(), lprobs.to(device, copy=True)
            reference.block_ngrams_(expected, tokens, size, length, forced)
            call(found, tokens.to(device), size, length, forced.to(device))
            return [_difference(found, expected, 0.0)]

        yield f"n-grams of {size}, {length} tokens", differences


def _random_logits(rows: int, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """Logits with ties, among which the lower index comes first."""
    random = torch.Generator("cpu").manual_seed(rows)
    drawn = 3 * torch.randn(rows, vocabulary, generator=random, device="cpu")
    return ((8 * drawn).round() / 8).to(dtype)


def _log_sum_exp(
    call: Any, device: torch.device, dtype: torch.dtype, effort: Effort
) -> Iterator[_Case]:
    for rows, vocabulary, _, _ in effort.logits:
        logits = _random_logits(rows, vocabulary, dtype)

        def differences(logits: Tensor = logits) -> list[float]:
            expected = reference.log_sum_exp(logits.double())
            return [_difference(call(logits.to(device)), expected, _accuracy(dtype))]

        yield f"{rows} rows, {vocabulary} tokens", differences


def _top_candidates(
    call: Any, device: torch.device, dtype: torch.dtype, effort: Effort
) -> Iterator[_Case]:
    for rows, vocabulary, beam, k in effort.logits:
        logits = _random_logits(rows, vocabulary, dtype)

        def differences(logits: Tensor = logits, beam: int = beam, k: int = k) -> list[float]:
            lse = reference.log_sum_exp(logits)
            scores = torch.arange(logits.size(0), dtype=lse.dtype, device="cpu") / 64
            expected = reference.top_candidates(logits, lse, scores, beam, k)
            moved = [x.to(device) for x in (logits, lse, scores)]
            values, index = call(*moved, beam, k)
            return [  # the same bits on every device
                _difference(values, expected[0], 0.0),
                _difference(index, expected[1], 0.0),
            ]

        yield f"{rows} rows, {vocabulary} tokens, beam {beam}, k {k}", differences


_CASES: dict[str, Callable[[Any, torch.device, torch.dtype, Effort], Iterator[_Case]]] = {
    "attend": _attend,
    "weights": _weights,
    "block_ngrams_": _block_ngrams,
    "log_sum_exp": _log_sum_exp,
    "top_candidates": _top_candidates,
}
