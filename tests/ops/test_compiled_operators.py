"""The compiled operators against the reference, and against the reference in float64."""

from __future__ import annotations

import importlib
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import el_attention
from el_attention.ops import Attended, Rows, attend, compiled, extension, reference
from el_attention.ops.compiled import MAX_SEGMENTS

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
VISIBLE = ("all", "sentence", "beam")


def test_operators_use_threads_where_torch_does():
    """Without OpenMP at::parallel_for compiles to a plain loop, and nothing else would tell."""
    built = importlib.import_module("el_attention._C").build_information()
    assert built["threads"] == torch.backends.openmp.is_available()


@dataclass(frozen=True)
class Case:
    """Sizes of one call."""

    groups: int
    beam: int
    heads: int
    width: int
    value_width: int
    rows: tuple[int, ...]  # of each segment

    @property
    def total(self) -> int:
        return sum(self.rows)


# Odd sizes; from one query per kv head to many, over one range of rows and over several.
CASES = {
    "one of each": Case(1, 1, 1, 1, 1, (1,)),
    "smaller than a vector": Case(2, 3, 2, 3, 5, (2, 1)),
    "one beam": Case(3, 1, 4, 17, 17, (37,)),
    "beams": Case(3, 4, 3, 64, 64, (70, 33)),
    "odd widths": Case(2, 5, 3, 37, 29, (1, 0, 130)),
    "many segments": Case(2, 2, 2, 9, 9, (5,) * MAX_SEGMENTS),
    "many beams": Case(2, 33, 2, 20, 31, (97, 40)),
    "many beams, whole vectors": Case(2, 70, 2, 64, 32, (97, 40)),
    "several ranges": Case(2, 4, 5, 24, 40, (333, 512)),
}


@dataclass
class Call:
    """Arguments of `attend`."""

    query: Tensor
    rows: list[Rows]
    visible: Tensor | None
    bias: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Call:
        return Call(
            self.query.to(dtype),
            [Rows(*_converted(segment, dtype), segment.columns) for segment in self.rows],
            self.visible,
            None if self.bias is None else self.bias.to(reference.softmax_dtype(dtype)),
        )

    def raw(self) -> tuple[Any, ...]:
        """Arguments of the operator itself."""
        keys, values = [p.keys for p in self.rows], [p.values for p in self.rows]
        columns = [p.columns for p in self.rows]
        return self.query, keys, values, columns, self.visible, self.bias


def _converted(segment: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    keys = segment.keys.to(dtype)
    return keys, keys if segment.values is segment.keys else segment.values.to(dtype)


def make(
    case: Case,
    visible: str = "all",
    dtype: torch.dtype = torch.float64,
    shared: bool = False,
    seed: int = 0,
    biased: bool = False,
) -> Call:
    """Random arguments; `shared` for one kv head whose keys are the values.

    Where rows can be invisible, there are blocks and single rows that nobody sees, a beam and a
    whole sentence that see nothing, and NaN or infinity in all rows that nobody sees.
    """
    random = torch.Generator().manual_seed(seed)
    columns = case.groups + 3
    kv_heads = 1 if shared else case.heads
    mask = None
    if visible != "all":
        beams = 1 if visible == "sentence" else case.beam
        mask = torch.rand(case.groups, beams, case.total, generator=random) < 0.5
        mask[:, :, case.total // 3 : case.total // 2] = False
        mask[:, -1] &= case.beam == 1
        mask[case.groups // 2] &= case.groups == 1
    segments, start = [], 0
    for rows in case.rows:
        column = torch.randperm(columns, generator=random)[: case.groups]
        keys = torch.randn(rows, columns, kv_heads, case.width, generator=random)
        values = keys
        if not shared:
            values = torch.randn(rows, columns, kv_heads, case.value_width, generator=random)
        keys, values = (x.to(torch.float64) for x in (keys, values))
        values = keys if shared else values
        if mask is not None:
            dead = torch.ones(rows, columns, dtype=torch.bool)
            dead[:, column] = ~mask[:, :, start : start + rows].any(1).t()
            poison = torch.tensor([math.nan, math.inf]).repeat(columns)[:columns].double()
            keys[dead] = poison.expand(rows, -1)[dead][:, None, None]
            values[dead] = poison.expand(rows, -1)[dead][:, None, None]
        segments.append(Rows(keys, values, column))
        start += rows
    query = torch.randn(case.groups, case.beam, case.heads, case.width, generator=random)
    bias = None
    if biased:
        shape = (case.groups, case.heads, case.total)
        bias = torch.randn(shape, generator=random, dtype=torch.float64)
        bias[torch.rand(shape, generator=random) < 0.2] = -math.inf
        bias[-1:, -1:] = -math.inf  # a head that sees nothing
    return Call(query.double() / math.sqrt(case.width), segments, mask, bias).to(dtype)


def error(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth).norm() / truth.norm().clamp(min=1e-30))


def assert_close_to_reference(call: Call, **options: Any) -> Attended:
    """At most twice the reference's error in the same dtype; float64 is the truth for both."""
    exact = call.to(torch.float64)
    truth = reference.attend(exact.query, exact.rows, exact.visible, bias=exact.bias, **options)
    naive = reference.attend(call.query, call.rows, call.visible, bias=call.bias, **options)
    assert compiled.unsupported(call.query, call.rows) is None
    ours = attend(call.query, call.rows, call.visible, bias=call.bias, **options)
    # What two orders of summation may differ in float64, where the reference is its own truth;
    # else the rounding of a logarithm of some units, which the reference never takes.
    eps = torch.finfo(call.query.dtype).eps
    allowance = 100 * eps if call.query.dtype == torch.float64 else 4 * eps
    for name in ("context", "weights", "sink_weights", "mass"):
        mine, theirs, right = (getattr(x, name) for x in (ours, naive, truth))
        if right is None:
            assert mine is None or (name == "mass" and mine.eq(1).all())
            continue
        assert mine.dtype == theirs.dtype and mine.shape == right.shape
        assert mine.isfinite().all()
        assert error(mine, right) <= max(2 * error(theirs, right), allowance), name
    return ours


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_attend_is_as_accurate_as_the_reference(case, shared, visible, dtype) -> None:
    assert_close_to_reference(make(case, visible, dtype, shared))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_bias_is_added_as_accurately_as_by_the_reference(case, shared, visible, dtype) -> None:
    call = make(case, visible, dtype, shared, biased=True)
    ours = assert_close_to_reference(call)
    assert call.bias is not None and ours.weights is not None and ours.mass is not None
    away = call.bias.isneginf()[:, None].expand_as(ours.weights)
    assert ours.weights.masked_select(away).eq(0).all()
    assert ours.context[-1, :, -1].eq(0).all() and ours.mass[-1, :, -1].eq(0).all()


@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
def test_a_bias_may_have_strides_and_serve_all_sentences(shared) -> None:
    call = make(CASES["beams"], "beam", torch.float32, shared, biased=True)
    assert call.bias is not None
    groups, heads, total = call.bias.shape
    padded = torch.full((heads, groups, total + 7), math.nan)[..., 2 : total + 2].transpose(0, 1)
    expected = torch.ops.el_attention.attend(*call.raw())
    found = torch.ops.el_attention.attend(*call.raw()[:5], padded.copy_(call.bias))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    one = call.bias[:1].expand(groups, -1, -1)
    expected = torch.ops.el_attention.attend(*call.raw()[:5], one.contiguous())
    found = torch.ops.el_attention.attend(*call.raw()[:5], one)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
def test_sinks_take_their_share(shared, visible, dtype, biased) -> None:
    case = CASES["beams"]
    call = make(case, visible, dtype, shared, biased=biased)
    sinks = torch.randn(case.groups, case.beam, case.heads, 2)
    ours = assert_close_to_reference(call, sinks=sinks)
    assert ours.mass is not None
    total = ours.mass + ours.sink_weights.sum(-1, keepdim=True)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("sinks", [False, True])
def test_weights_are_computed_only_if_needed(sinks) -> None:
    call = make(CASES["beams"], "beam", torch.float32)
    scores = torch.randn(*call.query.shape[:3], 2) if sinks else None
    ours = assert_close_to_reference(call, sinks=scores, need_weights=False)
    asked = assert_close_to_reference(call, sinks=scores)
    assert ours.weights is None and asked.weights is not None
    assert torch.equal(ours.context, asked.context)
    rows = asked.weights.sum(-1)
    assert call.visible is not None
    sees = call.visible.any(-1)[..., None].expand_as(rows) if not sinks else rows.new_ones(())
    torch.testing.assert_close(rows, sees.to(rows).expand_as(rows))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_lse_is_the_logarithm_of_the_sum(case, dtype) -> None:
    call = make(case, "beam", dtype)
    _, lse = torch.ops.el_attention.attend(*call.raw())
    keys = torch.cat([p.keys.double()[:, p.columns] for p in call.rows])
    assert call.visible is not None
    scores = torch.einsum("gbhw,ughw->gbhu", call.query.double(), keys)
    scores = scores.masked_fill(~call.visible[:, :, None], -math.inf)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=1e-6, atol=1e-6)
    assert lse[call.visible.any(-1).logical_not()].eq(-math.inf).all()


@pytest.mark.parametrize("case", [Case(2, 3, 4, 5, 9, (7, 30)), Case(2, 7, 4, 33, 40, (300,))])
def test_one_key_head_may_have_values_of_its_own(case) -> None:
    call = make(case, "beam", torch.float32)
    one = [Rows(p.keys[:, :, 1:2], p.values[:, :, 2:3], p.columns) for p in call.rows]
    assert_close_to_reference(Call(call.query, one, call.visible))


def test_sentences_may_share_a_column() -> None:
    call = make(CASES["beams"], dtype=torch.float32)
    columns = torch.tensor([4, 1, 4])
    rows = [segment._replace(columns=columns) for segment in call.rows]
    assert_close_to_reference(Call(call.query, rows, None))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
def test_strided_inputs_are_read_in_place(shared, dtype) -> None:
    call = make(CASES["beams"], "beam", dtype, shared)
    expected = torch.ops.el_attention.attend(*call.raw())

    def strided(x: Tensor) -> Tensor:
        """The same values: other order of rows, columns and heads, wider rows, odd offset."""
        rows, columns, heads, width = x.shape
        wide = torch.full((heads, columns, rows + 1, width + 3), math.nan, dtype=x.dtype)
        wide[:, :, 1:, 1 : width + 1] = x.permute(2, 1, 0, 3)
        return wide[:, :, 1:, 1 : width + 1].permute(2, 1, 0, 3)

    rows = []
    for index, segment in enumerate(call.rows):
        if index == 0:  # each segment has strides of its own
            keys = strided(segment.keys)
            segment = Rows(keys, keys if shared else strided(segment.values), segment.columns)
        columns = torch.stack([segment.columns, segment.columns], 1)[:, 0]
        rows.append(segment._replace(columns=columns))
    assert call.visible is not None
    visible = torch.ones(*call.visible.shape[:2], call.visible.size(2) + 5, dtype=torch.bool)
    visible[..., : call.visible.size(2)] = call.visible
    query = call.query.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for mask in (
        visible[..., : call.visible.size(2)],
        call.visible.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    ):
        arguments = Call(query, rows, mask)
        for ours, theirs in zip(
            torch.ops.el_attention.attend(*arguments.raw()), expected, strict=True
        ):
            assert torch.equal(ours, theirs)
        assert_close_to_reference(arguments)


@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
def test_no_rows_give_zero_and_no_sentences_give_nothing(shared) -> None:
    for case in (Case(2, 3, 2, 4, 5, (0,)), Case(2, 3, 2, 4, 5, (0, 0))):
        for visible in VISIBLE:
            ours = assert_close_to_reference(make(case, visible, torch.float32, shared))
            assert ours.context.eq(0).all() and ours.mass is not None and ours.mass.eq(0).all()
    call = make(Case(1, 3, 2, 4, 5, (6,)), "beam", torch.float32, shared)
    rows = [segment._replace(columns=segment.columns[:0]) for segment in call.rows]
    assert call.visible is not None
    ours = attend(call.query[:0], rows, call.visible[:0])
    assert ours.context.shape == (0, 3, 2, 4 if shared else 5)
    assert ours.weights is not None and ours.weights.shape == (0, 3, 2, 6)


@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
def test_nan_that_is_seen_is_not_hidden_and_stays_in_its_sentence(shared) -> None:
    call = make(CASES["beams"], dtype=torch.float32, shared=shared)
    call.rows[0].keys[3, call.rows[0].columns[1]] = math.nan
    context, lse = torch.ops.el_attention.attend(*call.raw())
    assert context[1].isnan().all() and lse[1].isnan().all()
    assert context[[0, 2]].isfinite().all() and lse[[0, 2]].isfinite().all()


@pytest.mark.parametrize("scale", [1e4, -1e4], ids=["high", "low"])
@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
def test_scores_far_from_zero_neither_overflow_nor_vanish(shared, scale) -> None:
    call = make(CASES["several ranges"], "all", torch.float32, shared)
    # Scores that rise or fall along the rows: every block has another maximum.
    total = call.rows[0].keys.size(0)
    ramp = torch.linspace(0, scale, total)[:, None, None]
    for segment in call.rows:
        segment.keys[..., 0] = (
            ramp[: segment.keys.size(0)] if segment.keys.size(0) <= total else scale
        )
    call.query[..., 0] = 1.0
    ours = attend(call.query, call.rows, None)
    exact = call.to(torch.float64)
    truth = reference.attend(exact.query, exact.rows, None)
    torch.testing.assert_close(ours.context.double(), truth.context, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shared", [True, False], ids=["states", "keys and values"])
@pytest.mark.parametrize("name", ["beams", "several ranges", "many beams"])
def test_threads_change_no_bit(name, shared) -> None:
    call = make(CASES[name], "beam", torch.float32, shared, biased=True)
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            context, lse = torch.ops.el_attention.attend(*call.raw())
            query, keys, _, columns, visible, bias = call.raw()
            weights = torch.ops.el_attention.weights(query, keys, columns, visible, bias, lse)
            results.append((context, lse, weights))
    finally:
        torch.set_num_threads(1)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def ngram_arguments(dtype: torch.dtype, length: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(length)
    tokens = torch.randint(4, 7, (19, 25), generator=random)
    lprobs = torch.rand(19, 9, generator=random).to(dtype)
    return lprobs, tokens, torch.rand(19, generator=random) < 0.3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [0, 1, 2, 5, 25])
@pytest.mark.parametrize("forced", [True, False])
def test_ngrams_are_blocked_as_by_the_reference(dtype, size, length, forced) -> None:
    lprobs, tokens, mask = ngram_arguments(dtype, length)
    expected = lprobs.clone()
    reference.block_ngrams_(expected, tokens, size, length, mask if forced else None)
    wide = torch.zeros(2, *lprobs.shape, dtype=dtype).transpose(0, 2)[..., 1].t()
    wide.copy_(lprobs)
    history = tokens.t().contiguous().t()
    for target, source in ((lprobs, tokens), (wide, history)):
        torch.ops.el_attention.block_ngrams_(target, source, size, length, mask if forced else None)
        assert torch.equal(target, expected)
    if length == 25:
        assert expected.eq(-math.inf).any()


def replaced(call: Call, index: int, value: Any) -> list[Any]:
    arguments = list(call.raw())
    arguments[index] = value
    return arguments


def test_misfitting_arguments_are_named() -> None:
    call = make(Case(2, 3, 4, 5, 6, (7, 8)), "beam", torch.float32, biased=True)
    query, keys, values, columns, visible, bias = call.raw()
    wrong: list[tuple[int, Any, str]] = [
        (0, query.int(), r"query: expected dtype Double, Float, Half or BFloat16, got Int"),
        (0, query[0], r"query: expected \[groups, beam, heads, width\], .*, got \[3, 4, 5\]"),
        (0, query[..., :0], r"width at least 1, got \[2, 3, 4, 0\]"),
        (0, query.double(), r"keys\[0\]: expected dtype Double, got Float"),
        (0, query[:, :, :3], r"keys: expected 1 or 3 kv heads, got 4"),
        (0, query[..., :4], r"keys\[0\]: expected \[rows, columns, 4, 4\], got \[7, 5, 4, 5\]"),
        (1, [], r"keys: expected 1 to 16 segments, got 0"),
        (1, keys[:1], r"columns: expected 1 tensors, one for each segment of keys, got 2"),
        (1, [keys[0][0], keys[1]], r"keys\[0\]: expected \[rows, columns, kv_heads, width\]"),
        (1, [keys[0], keys[1].half()], r"keys\[1\]: expected dtype Float, got Half"),
        (1, [keys[0].transpose(2, 3).contiguous().transpose(2, 3), keys[1]],
         r"keys\[0\]: expected a contiguous last dimension \(stride 1\), got strides"),
        (2, values[:1], r"values: expected 2 tensors, one for each segment of keys, got 1"),
        (2, [values[0][:6], values[1]], r"values\[0\]: expected 7 rows and 5 columns"),
        (2, [values[0], values[1][:, :, :1]], r"values\[1\]: expected \[rows, columns, 4, 6\]"),
        (3, [columns[0], columns[1].int()], r"columns\[1\]: expected dtype Long, got Int"),
        (3, [columns[0][:1], columns[1]], r"columns\[0\]: expected 2 sentences, got 1"),
        (3, [columns[0], columns[1][None]], r"columns\[1\]: expected 1 dimensions, got \[1, 2\]"),
        (4, visible[..., :14], r"visible: expected \[2, 1 or 3, 15\], got \[2, 3, 14\]"),
        (4, visible[:, :2], r"visible: expected \[2, 1 or 3, 15\], got \[2, 2, 15\]"),
        (4, visible.int(), r"visible: expected dtype Bool, got Int"),
        (5, bias[..., :14], r"bias: expected \[2, 4, 15\], got \[2, 4, 14\]"),
        (5, bias[:, :3], r"bias: expected \[2, 4, 15\], got \[2, 3, 15\]"),
        (5, bias[0], r"bias: expected \[2, 4, 15\], got \[4, 15\]"),
        (5, bias.half(), r"bias: expected dtype Float, got Half"),
        (5, bias.double(), r"bias: expected dtype Float, got Double"),
        (5, bias.transpose(1, 2).contiguous().transpose(1, 2),
         r"bias: expected a contiguous last dimension \(stride 1\), got strides"),
    ]  # fmt: skip
    for index, value, message in wrong:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.el_attention.attend(*replaced(call, index, value))
    segments = MAX_SEGMENTS + 1
    with pytest.raises(RuntimeError, match="keys: expected 1 to 16 segments, got 17"):
        torch.ops.el_attention.attend(
            query, keys[:1] * segments, values[:1] * segments, columns[:1] * segments, None, None
        )
    for bad in (5, -1):
        with pytest.raises(
            IndexError, match=rf"columns\[1\]: expected columns in \[0, 5\), got {bad}"
        ):
            torch.ops.el_attention.attend(*replaced(call, 3, [columns[0], torch.tensor([0, bad])]))
    with pytest.raises(RuntimeError, match=r"lse: expected \[2, 3, 4\], got \[2, 3\]"):
        torch.ops.el_attention.weights(query, keys, columns, visible, bias, torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="lse: expected dtype Float, got Double"):
        lse = torch.zeros(2, 3, 4).double()
        torch.ops.el_attention.weights(query, keys, columns, visible, bias, lse)
    with pytest.raises(RuntimeError, match="bias: expected dtype Float, got Half"):
        lse = torch.zeros(2, 3, 4)
        torch.ops.el_attention.weights(query, keys, columns, visible, bias.half(), lse)


def test_misfitting_arguments_of_the_ngram_block_are_named() -> None:
    lprobs, tokens, forced = ngram_arguments(torch.float32, 25)
    wrong: Sequence[tuple[tuple[Any, ...], str]] = [
        ((lprobs.int(), tokens, 2, 9, None), "lprobs: expected dtype Double, Float"),
        ((lprobs[0], tokens, 2, 9, None), r"lprobs: expected \[beams, vocabulary\], got \[9\]"),
        ((lprobs, tokens.int(), 2, 9, None), "tokens: expected dtype Long, got Int"),
        ((lprobs, tokens[:3], 2, 9, None), r"tokens: expected \[19, length\], got \[3, 25\]"),
        ((lprobs, tokens, 0, 9, None), "size: expected at least 1, got 0"),
        ((lprobs, tokens, 2, 26, None), "length: expected 0 to 25, the columns of tokens, got 26"),
        ((lprobs, tokens, 2, 9, forced.int()), "forced: expected dtype Bool, got Int"),
        ((lprobs, tokens, 2, 9, forced[:4]), r"forced: expected \[19\], got \[4\]"),
    ]
    for arguments, message in wrong:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.el_attention.block_ngrams_(*arguments)
    with pytest.raises(IndexError, match=r"tokens: expected tokens in \[0, 5\), the vocabulary"):
        torch.ops.el_attention.block_ngrams_(lprobs[:, :5], tokens + 2, 1, 9, None)


def test_gradients_are_refused_aloud() -> None:
    call = make(CASES["beams"], dtype=torch.float32)
    call.rows[0].keys.requires_grad_()
    with pytest.raises(RuntimeError, match="el_attention::attend: expected inputs that need no"):
        torch.ops.el_attention.attend(*call.raw())
    with torch.no_grad():
        torch.ops.el_attention.attend(*call.raw())
    # The public operator has them, through the reference.
    attend(call.query, call.rows, None).context.sum().backward()
    assert call.rows[0].keys.grad is not None
    lprobs, tokens, _ = ngram_arguments(torch.float32, 25)
    with pytest.raises(
        RuntimeError, match="el_attention::block_ngrams_: expected inputs that need"
    ):
        torch.ops.el_attention.block_ngrams_(lprobs.requires_grad_(), tokens, 2, 9, None)


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_schemas_and_fakes_tell_the_truth(visible, dtype, biased) -> None:
    call = make(CASES["odd widths"], visible, dtype, biased=biased)
    query, keys, _, columns, mask, bias = call.raw()
    torch.library.opcheck(torch.ops.el_attention.attend.default, call.raw())
    _, lse = torch.ops.el_attention.attend(*call.raw())
    torch.library.opcheck(
        torch.ops.el_attention.weights.default, (query, keys, columns, mask, bias, lse)
    )
    lprobs, tokens, forced = ngram_arguments(dtype, 25)
    torch.library.opcheck(
        torch.ops.el_attention.block_ngrams_.default, (lprobs, tokens, 2, 20, forced)
    )


def test_reasons_against_the_compiled_operators(monkeypatch) -> None:
    call = make(Case(2, 3, 4, 5, 6, (7,)), dtype=torch.float32)
    assert compiled.unsupported(call.query, call.rows) is None
    assert compiled.unsupported(call.query.int()) == "the compiled ones do not take torch.int32"
    assert compiled.unsupported(call.query.to("meta")) == "there are no compiled ones for meta"
    assert "do not drop weights" in (
        compiled.unsupported(call.query, call.rows, torch.ones(())) or ""
    )
    assert "take 16 segments of rows, not 17" in (
        compiled.unsupported(call.query, call.rows * 17) or ""
    )
    call.query.requires_grad_()
    assert compiled.unsupported(call.query, call.rows) == "the compiled ones have no gradient"
    with torch.no_grad():
        assert compiled.unsupported(call.query, call.rows) is None
        monkeypatch.setattr(extension, "unsupported", "not built: nobody did")
        assert compiled.unsupported(call.query) == "the compiled ones are not built: nobody did"


def test_the_extension_of_a_cpu_says_that_it_has_no_kernels() -> None:
    module = pytest.importorskip("el_attention._C")
    if module.build_information()["cuda"] is None:
        assert module.unsupported_gpu(0) == "built without CUDA"


def test_more_segments_than_the_compiled_operators_take_are_read_by_the_reference() -> None:
    call = make(Case(2, 3, 4, 5, 5, (2,) * (MAX_SEGMENTS + 1)), dtype=torch.float32, shared=True)
    ours = attend(call.query, call.rows, None)
    joined = torch.cat([segment.keys[:, segment.columns] for segment in call.rows])
    expected = compiled.attend(call.query, [Rows(joined, joined, torch.arange(2))], None)
    torch.testing.assert_close(ours.context, expected.context)


@pytest.mark.parametrize("reason", [None, "not built: nobody did"])
def test_the_kind_of_operators_is_logged_once_for_a_model(reason, caplog, monkeypatch) -> None:
    pytest.importorskip("fairseq")
    from tiny import batch, build, dictionary, generator_of

    monkeypatch.setattr(extension, "unsupported", reason)
    symbols = dictionary()
    generator = el_attention.convert(generator_of([build("bart", symbols)], symbols, {"beam": 2}))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            generator.generate(None, batch(symbols, [4, 3]))
    kind = f"pure PyTorch, because the compiled ones are {reason}" if reason else "compiled"
    assert [m for m in caplog.messages if "operators" in m] == [f"operators on cpu: {kind}"]


def run_with(capability: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs Python where torch takes the processor for a lesser one."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one set")
def test_a_lower_instruction_set_is_as_accurate() -> None:
    files = [__file__, str(Path(__file__).with_name("test_candidates.py"))]
    chosen = "accurate and not lower or top_of or bits or log_sum_exp"
    result = run_with("avx2", ["-m", "pytest", "-q", "-x", *files, "-k", chosen])
    assert result.returncode == 0, result.stdout[-4000:]


WITHOUT_AVX2 = """
import torch
from el_attention.ops import Rows, attend, compiled, linear
x = torch.randn(3, 4, 5, 6)
print(compiled.unsupported(x))
rows = torch.randn(7, 3, 5, 6)
attend(x, [Rows(rows, rows, torch.arange(3))], None)
linear(x, torch.randn(2, 6), None)
try:
    torch.ops.el_attention.linear(x.view(-1, 6), torch.randn(2, 6), None)
except NotImplementedError as error:
    print(error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one set")
def test_without_avx2_the_operators_are_pure_pytorch() -> None:
    result = run_with("default", ["-c", WITHOUT_AVX2])
    assert result.returncode == 0, result.stderr[-4000:]
    reason, error = result.stdout.splitlines()[:2]
    assert reason == "the compiled ones need AVX2, which torch does not find here"
    assert "expected AVX2 or AVX512" in error
