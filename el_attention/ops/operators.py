"""What the rest of the package calls: compiled operators where they can run, else the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from el_attention.ops import compiled, reference
from el_attention.ops.reference import Attended, Rows


def attend(
    query: Tensor,
    rows: Sequence[Rows],
    visible: Tensor | None,
    *,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    need_weights: bool = True,
) -> Attended:
    """Attends from the beams of every sentence to its rows; see `reference.attend`.

    Args:
        query: [G, B, H, W].
        rows: segments of the row axis, whose sizes add up to U.
        visible: bool [G, B or 1, U], or None where every beam sees every row.
        bias: [G, H, U], float32 (float64 for float64), added to the scores of the rows, of all
            beams alike, or None for 0; -inf for weight 0.
        sinks: [G, B, H, E], scores of keys outside the rows, always visible.
        dropout_mask: [G, B, H, U + E], factors on the weights, or None for 1.
        need_weights: whether weights are to be returned.

    Raises:
        ValueError: if shapes, devices or the bias's dtype do not fit together (the reference).
        RuntimeError: if they do not (the compiled operators).
    """
    others = () if bias is None else (bias,)
    called = ("attend", "weights") if need_weights else ("attend",)
    if compiled.unsupported(query, rows, dropout_mask, others, called) is None:
        return compiled.attend(
            query, rows, visible, bias=bias, sinks=sinks, need_weights=need_weights
        )
    return reference.attend(
        query,
        rows,
        visible,
        bias=bias,
        sinks=sinks,
        dropout_mask=dropout_mask,
        need_weights=need_weights,
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, narrow: Tensor | None = None) -> Tensor:
    """Applies a linear layer, x W^T + b, as `torch.nn.functional.linear` does.

    On a CPU, up to 256 rows go through an operator that reads the weight once, as it lies.

    Args:
        x: [..., I].
        weight: [O, I]; for float32 x on a CPU also float16 or bfloat16, with the bits of the same
            weight in float32.
        bias: [O] or None.
        narrow: [O, I], the values of a float32 `weight` in 16 bits (`narrowed`), which that
            operator reads in its place for up to 8 rows, with the same result; or None.

    Returns:
        [..., O].

    Raises:
        RuntimeError: if shapes or dtypes do not fit.
        ValueError: if not all tensors are on one device.
    """
    reference.check_devices({"x": x, "weight": weight, "bias": bias, "narrow": narrow})
    if compiled.runs_linear(x, weight, bias):
        if narrow is not None and compiled.is_bound_by_reading(x):
            weight = narrow
        return compiled.linear(x, weight, bias)
    return F.linear(x, weight.float() if compiled.is_narrow(x, weight) else weight, bias)


def block_ngrams_(
    lprobs: Tensor, tokens: Tensor, size: int, length: int, forced: Tensor | None
) -> None:
    """Forbids, in place, tokens that would repeat an n-gram; see `reference.block_ngrams_`."""
    if compiled.unsupported(lprobs, operators=("block_ngrams_",)) is None:
        torch.ops.el_attention.block_ngrams_(lprobs, tokens, size, length, forced)
    else:
        reference.block_ngrams_(lprobs, tokens, size, length, forced)


def log_sum_exp(logits: Tensor) -> Tensor:
    """Returns what turns logits into log-probabilities; see `reference.log_sum_exp`.

    Raises:
        RuntimeError: if `logits` is not [N, vocabulary] with a contiguous last dimension (the
            compiled operator).
    """
    if compiled.unsupported(logits, operators=("log_sum_exp",)) is None:
        return torch.ops.el_attention.log_sum_exp(logits)
    return reference.log_sum_exp(logits)


def top_candidates(
    logits: Tensor, lse: Tensor, scores: Tensor, beam: int, k: int
) -> tuple[Tensor, Tensor]:
    """Finds the best continuations of every sentence's beams; see `reference.top_candidates`.

    Raises:
        ValueError: if the arguments do not fit together (the reference).
        RuntimeError: if they do not (the compiled operator).
    """
    reason = compiled.unsupported(logits, others=(lse, scores), operators=("top_candidates",))
    if reason is None and k <= compiled.MAX_CANDIDATES:
        return torch.ops.el_attention.top_candidates(logits, lse, scores, beam, k)
    return reference.top_candidates(logits, lse, scores, beam, k)
