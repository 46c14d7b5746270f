"""Random calls of the compiled operators, on any device, and in float64 what they must return."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from el_attention.ops.check import Size

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Call:
    """Arguments of `attend`; see csrc/ops.cpp."""

    query: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    columns: list[Tensor]
    visible: Tensor | None
    bias: Tensor | None = None

    def attend(self) -> tuple[Tensor, Tensor]:
        """Calls the operator."""
        context, lse = torch.ops.el_attention.attend(
            self.query, self.keys, self.values, self.columns, self.visible, self.bias
        )
        return context, lse

    def weights(self, lse: Tensor) -> Tensor:
        """Calls the operator of that name."""
        result: Tensor = torch.ops.el_attention.weights(
            self.query, self.keys, self.columns, self.visible, self.bias, lse
        )
        return result


def expanded(groups: int, beam: int, heads: int, width: int, *lengths: int) -> Size:
    """Sizes of expanded queries: one kv head, values that are the keys."""
    return Size(groups, beam, heads, 1, width, width, lengths)


def projected(groups: int, beam: int, heads: int, width: int, *lengths: int) -> Size:
    """Sizes of shared projection: a kv head for each head."""
    return Size(groups, beam, heads, heads, width, width, lengths)


def random_call(
    size: Size,
    dtype: torch.dtype,
    device: str = "cpu",
    seen: str = "by each beam",
    seed: int = 0,
    biased: bool = False,
) -> Call:
    """Makes a call in which all that must not matter is NaN.

    Args:
        size: its sizes; the values are the keys if there is one kv head and one width.
        dtype: the dtype of query, keys and values.
        device: where it is to run.
        seen: "all" rows, "by all beams" the same rows, or "by each beam" others; unless all are
            seen, the first beam (or, seen by all, the first sentence) sees nothing.
        seed: the seed of the random numbers.
        biased: whether there is a bias; it is -inf for some of the rows, and for all rows of the
            last head of the last sentence.

    Returns:
        The call.  Every segment has two columns more than sentences, no two the same columns.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    rows = sum(size.lengths)
    visible = None
    if seen != "all":
        beams = 1 if seen == "by all beams" else size.beam
        visible = torch.rand(size.groups, beams, rows, generator=random) < 0.6
        visible[0, 0] = False

    query = 2 * normal(size.groups, size.beam, size.heads, size.width) / math.sqrt(size.width)
    keys, values, columns = [], [], []
    start = 0
    for length in size.lengths:
        column = torch.randperm(size.groups + 2, generator=random)[: size.groups]
        dead = torch.ones(length, size.groups + 2, dtype=torch.bool)
        dead[:, column] = False
        if visible is not None:
            dead[:, column] = ~visible[:, :, start : start + length].any(1).t()
        key = normal(length, size.groups + 2, size.kv_heads, size.width)
        key = key.masked_fill(dead[:, :, None, None], math.nan).to(device, dtype)
        value = key
        if size.kv_heads > 1 or size.value_width != size.width:
            value = normal(length, size.groups + 2, size.kv_heads, size.value_width)
            value = value.masked_fill(dead[:, :, None, None], math.nan).to(device, dtype)
        keys.append(key)
        values.append(value)
        columns.append(column.to(device))
        start += length
    bias = None
    if biased:
        wide = torch.promote_types(dtype, torch.float32)
        storage = torch.full((size.groups, size.heads, rows + 3), math.nan, dtype=wide)
        bias = storage.to(device)[..., 1 : rows + 1]
        drawn = 2 * normal(size.groups, size.heads, rows)
        drawn[torch.rand(drawn.shape, generator=random) < 0.2] = -math.inf
        drawn[-1:, -1:] = -math.inf
        if visible is not None:
            drawn = drawn.masked_fill(~visible.any(1, keepdim=True), math.nan)
        bias.copy_(drawn)
    seen_by = None if visible is None else visible.to(device)
    return Call(query.to(device, dtype), keys, values, columns, seen_by, bias)


def exact(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Context, lse and weights of a call by their definition, in float64 on the CPU."""
    query = call.query.cpu().double()
    heads = query.size(2)

    def gather(segments: list[Tensor]) -> Tensor:
        """[G, H, U, width], the rows of each sentence."""
        parts = [p[:, c].cpu().double() for p, c in zip(segments, call.columns, strict=True)]
        rows = torch.cat(parts).permute(1, 2, 0, 3).nan_to_num(0.0)
        return rows.expand(-1, heads, -1, -1)

    scores = torch.einsum("gbhw,ghuw->gbhu", query, gather(call.keys))
    if call.bias is not None:
        scores = scores + call.bias.cpu().double()[:, None]
    if call.visible is not None:
        scores = scores.masked_fill(~call.visible.cpu()[:, :, None], -math.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.nan_to_num(neginf=0.0).unsqueeze(-1)).exp()
    return torch.einsum("gbhu,ghuv->gbhv", weights, gather(call.values)), lse, weights


def assert_exact(call: Call) -> None:
    """Runs a call and compares it with the definition, to the accuracy of its dtype.

    Scores, weights and sums are those of float32 (of float64 for float64), and what is rounded to
    a 16-bit dtype is at most the weights and the context: values are a few units large.
    """
    accuracy = 1e-12 if call.query.dtype == torch.float64 else 2e-5
    rounding = 4 * torch.finfo(call.query.dtype).eps
    context, lse, weights = exact(call)
    found_context, found_lse = call.attend()
    assert found_context.dtype == call.query.dtype
    wide = torch.promote_types(call.query.dtype, torch.float32)
    assert found_lse.dtype == wide
    found_weights = call.weights(found_lse)
    assert found_weights.dtype == wide
    torch.testing.assert_close(found_lse.cpu().double(), lse, rtol=accuracy, atol=accuracy)
    torch.testing.assert_close(found_weights.cpu().double(), weights, rtol=accuracy, atol=accuracy)
    tolerance = max(accuracy, rounding)
    torch.testing.assert_close(
        found_context.cpu().double(), context, rtol=tolerance, atol=tolerance
    )


def random_logits(rows: int, vocabulary: int, dtype: torch.dtype, ties: bool = False) -> Tensor:
    """Logits whose rows lie apart, NaN between them; `ties` for few distinct numbers."""
    random = torch.Generator().manual_seed(rows + vocabulary)
    logits = torch.full((rows, vocabulary + 5), math.nan)
    logits[:, 2:-3] = 3 * torch.randn(rows, vocabulary, generator=random)
    if ties:
        logits = logits.round()
    return logits.to(dtype)[:, 2:-3]


def exact_candidates(logits: Tensor, scores: Tensor, beam: int, k: int) -> tuple[Tensor, Tensor]:
    """The best values [G, k] and those of all candidates, as fairseq has them, in float64."""
    values = torch.log_softmax(logits.double(), -1) + scores.double()[:, None]
    values[values != values] = -math.inf
    values = values.view(-1, beam * logits.size(1))
    return values.topk(k).values, values
