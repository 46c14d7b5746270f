"""What the compiled operators return, in shape and dtype, without computing it.

torch calls these, too, where a single tensor is on the meta device and the others are not: there is
nothing to return then but memory that nobody has written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from el_attention.ops.reference import check_devices, numbered, softmax_dtype


@torch.library.register_fake("el_attention::attend")
def _attend(
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    columns: list[Tensor],
    visible: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    check_devices(
        {
            "query": query,
            **numbered("keys", keys),
            **numbered("values", values),
            **numbered("columns", columns),
            "visible": visible,
            "bias": bias,
        },
        RuntimeError,
    )
    context = query.new_empty(*query.shape[:3], values[0].size(3))
    return context, query.new_empty(query.shape[:3], dtype=softmax_dtype(query.dtype))


@torch.library.register_fake("el_attention::weights")
def _weights(
    query: Tensor,
    keys: list[Tensor],
    columns: list[Tensor],
    visible: Tensor | None,
    bias: Tensor | None,
    lse: Tensor,
) -> Tensor:
    check_devices(
        {
            "query": query,
            **numbered("keys", keys),
            **numbered("columns", columns),
            "visible": visible,
            "bias": bias,
            "lse": lse,
        },
        RuntimeError,
    )
    return lse.new_empty(*lse.shape, sum(segment.size(0) for segment in keys))


@torch.library.register_fake("el_attention::block_ngrams_")
def _block_ngrams_(
    lprobs: Tensor, tokens: Tensor, size: int, length: int, forced: Tensor | None
) -> None:
    check_devices({"lprobs": lprobs, "tokens": tokens, "forced": forced}, RuntimeError)


@torch.library.register_fake("el_attention::log_sum_exp")
def _log_sum_exp(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.size(0), dtype=softmax_dtype(logits.dtype))


@torch.library.register_fake("el_attention::top_candidates")
def _top_candidates(
    logits: Tensor, lse: Tensor, scores: Tensor, beam: int, k: int
) -> tuple[Tensor, Tensor]:
    check_devices({"logits": logits, "lse": lse, "scores": scores}, RuntimeError)
    values = lse.new_empty(logits.size(0) // beam, k)
    return values, torch.empty_like(values, dtype=torch.int64)


@torch.library.register_fake("el_attention::linear")
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    check_devices({"input": input, "weight": weight, "bias": bias}, RuntimeError)
    return input.new_empty(input.size(0), weight.size(0))


@torch.library.register_fake("el_attention::is_widened")
def _is_widened(weight: Tensor, narrow: Tensor) -> Tensor:
    check_devices({"weight": weight, "narrow": narrow}, RuntimeError)
    return weight.new_empty((), dtype=torch.bool)
