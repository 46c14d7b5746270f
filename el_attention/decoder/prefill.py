"""Causal self-attention over prompts, which are processed in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from el_attention.attention import Sink


def causal_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    is_padding: Tensor | None = None,
    sinks: Sequence[Sink] = (),
    bias: Tensor | None = None,
) -> Tensor:
    """Attends from every token of a prompt to itself and to the tokens before it.

    Args:
        query: [P, n, H, D], scaled.
        keys: [P, n, H, D].
        values: [P, n, H, D].
        is_padding: bool [n, P], tokens that no other token sees, or None.
        sinks: keys and values that every token sees.
        bias: [n or 1, H, P, P], added to the scores of tokens for one another, or None.

    Returns:
        [P, n, H, D].
    """
    length, extra = len(query), len(sinks)
    mask = None
    if is_padding is not None or extra or bias is not None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        if is_padding is not None:
            # A token sees itself also where it is padding: softmax over nothing is NaN.
            itself = torch.eye(length, dtype=torch.bool, device=query.device)
            mask = (mask & ~is_padding[:, None, None]) | itself
        mask = F.pad(mask, (0, extra), value=True)
    if mask is not None and bias is not None:
        added = F.pad(bias.to(query.dtype), (0, extra))
        mask = added.masked_fill(~mask, float("-inf"))
    if extra:
        keys = torch.cat([keys, *(_row(sink.key, keys) for sink in sinks)])
        values = torch.cat([values, *(_row(sink.value, values) for sink in sinks)])
    context = F.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),
        keys.permute(1, 2, 0, 3),
        values.permute(1, 2, 0, 3),
        attn_mask=mask,
        is_causal=mask is None,
        scale=1.0,
    )
    return context.permute(2, 0, 1, 3)


def _row(row: Tensor | None, rows: Tensor) -> Tensor:
    """A sink [H, D], or None for zeros, as one row [1, n, H, D] beside `rows`."""
    shape = (1, *rows.shape[1:])
    return rows.new_zeros(shape) if row is None else row.expand(shape)
