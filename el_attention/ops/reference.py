"""Pure-PyTorch operators: the readable specification, and the fallback without compiled kernels.

Notation: G sentences, B beams of each sentence, H heads, W the width of a key, V the width of a
value, U rows.  Equations are those of Yan et al., "EL-Attention", ICML 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """`size` sentences in a row, from `sentence` on, whose columns start at `column`."""

    sentence: int
    column: int
    size: int


class Rows(NamedTuple):
    """Rows that an attention reads: where they lie, without moving them.

    Attributes:
        keys: [rows, columns, key heads, W]; one key head is shared by all H heads.
        values: [rows, columns, key heads, V]; may be the same tensor as `keys`.
        runs: the sentences, in order, and the columns that hold them.
    """

    keys: Tensor
    values: Tensor
    runs: Sequence[Run]


class Attended(NamedTuple):
    """What `attend` returns.

    Attributes:
        context: [G, B, H, V], in the dtype of the values.
        weights: [G, B, H, U + E], softmax over rows and sinks, before `keep`; at least float32.
        sink_weights: [G, B, H, E], the weights of the sinks after `keep`; E may be 0.
        mass: [G, B, H, 1], the sum over rows of weights x keep, or None where it is known to be 1.
    """

    context: Tensor
    weights: Tensor
    sink_weights: Tensor
    mass: Tensor | None


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which softmax is computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def expand(query: Tensor, key_weight: Tensor) -> Tensor:
    """Moves the key projection to the query: e_i = q_i Wk_i^T.

    Args:
        query: [..., H, head_dim], scaled.
        key_weight: [H * head_dim, W], as in `nn.Linear(W, H * head_dim)`.

    Returns:
        [..., H, W], the expanded query.

    Raises:
        ValueError: if `key_weight` does not have H * head_dim rows.
    """
    return torch.einsum("...hk,hkw->...hw", query, _by_head(key_weight, query, "key_weight"))


def contract(
    context: Tensor, value_weight: Tensor, value_bias: Tensor | None, mass: Tensor | None = None
) -> Tensor:
    """Applies the value projection to the context: head_i = c_i Wv_i + (sum_t p_it) bv_i.

    Args:
        context: [..., H, V].
        value_weight: [H * head_dim, V], as in `nn.Linear(V, H * head_dim)`.
        value_bias: [H * head_dim] or None.
        mass: [..., H, 1], sum_t p_it; None where it is 1.

    Returns:
        [..., H, head_dim].

    Raises:
        ValueError: if `value_weight` cannot be divided among the heads.
    """
    heads = context.size(-2)
    if value_weight.size(0) % heads:
        raise ValueError(
            f"value_weight: expected a multiple of {heads} heads as first size, "
            f"got {tuple(value_weight.shape)}"
        )
    weight = value_weight.view(heads, -1, value_weight.size(1))
    head = torch.einsum("...hw,hkw->...hk", context, weight)
    if value_bias is None:
        return head
    bias = value_bias.view(heads, -1)
    return head + (bias if mass is None else mass.to(bias.dtype) * bias)


def attend(
    query: Tensor,
    rows: Sequence[Rows],
    visible: Tensor | None,
    *,
    sinks: Tensor | None = None,
    keep: Tensor | None = None,
) -> Attended:
    """Attends from the beams of every sentence to the rows of that sentence, read in place.

    p = softmax over visible rows and sinks of (query . key); context = sum over rows of p x keep x
    value.  Rows that a beam does not see have weight 0 exactly; a beam that sees nothing gets
    weights and context 0.

    Args:
        query: [G, B, H, W].
        rows: pieces of the row axis, whose sizes add up to U.
        visible: bool [G, B or 1, U], or None where every beam sees every row.
        sinks: [G, B, H, E], scores of keys outside the rows, always visible.
        keep: [G, B, H, U + E], factors on the weights (dropout), or None for 1.

    Returns:
        context, weights, sink weights and mass; see `Attended`.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    groups, beam = query.shape[:2]
    lengths = [piece.keys.size(0) for piece in rows]
    total = sum(lengths)
    if visible is not None and (visible.size(0), visible.size(-1)) != (groups, total):
        raise ValueError(
            f"visible: expected [{groups}, 1 or {beam}, {total}], got {tuple(visible.shape)}"
        )
    key_heads = rows[0].keys.size(2)
    query = _by_key_head(query, key_heads)
    products = [_multiply(query, p.keys.permute(1, 2, 3, 0), p.runs) for p in rows]
    scores = _joined(products, -1).to(softmax_dtype(query.dtype))
    if visible is not None:
        scores.masked_fill_(~visible[:, None, :, None], float("-inf"))
    extra = 0 if sinks is None else sinks.size(-1)
    if sinks is not None:
        scores = torch.cat([scores, _by_key_head(sinks.to(scores.dtype), key_heads)], -1)
    weights = torch.softmax(scores, dim=-1)
    blind = total == 0 or (visible is not None and not bool(visible.any(-1).all()))
    if blind and visible is not None and not extra:  # softmax over nothing is NaN
        weights = weights.masked_fill(~visible.any(-1)[:, None, :, None, None], 0.0)

    kept = weights if keep is None else weights * _by_key_head(keep, key_heads)
    kept, sink_weights = kept.split([total, extra], -1)
    mass = kept.sum(-1, keepdim=True) if blind or extra or keep is not None else None
    parts = kept.to(query.dtype).split(lengths, -1)
    products = [
        _multiply(part, piece.values.permute(1, 2, 0, 3), piece.runs)
        for part, piece in zip(parts, rows, strict=True)
    ]
    context = products[0]
    for product in products[1:]:
        context += product
    return Attended(
        _by_beam(context),
        _by_beam(weights),
        _by_beam(sink_weights),
        None if mass is None else _by_beam(mass),
    )


def _by_head(weight: Tensor, query: Tensor, name: str) -> Tensor:
    """Views [H * head_dim, W] as [H, head_dim, W]."""
    heads, head_dim = query.shape[-2:]
    if weight.size(0) != heads * head_dim:
        raise ValueError(
            f"{name}: expected {heads} x {head_dim} rows to match the query, "
            f"got {tuple(weight.shape)}"
        )
    return weight.view(heads, head_dim, weight.size(1))


def _by_key_head(x: Tensor, key_heads: int) -> Tensor:
    """Views [G, B, H, n] as [G, key heads, B, heads that share one, n]."""
    return x.unflatten(2, (key_heads, -1)).transpose(1, 2)


def _by_beam(x: Tensor) -> Tensor:
    """Views [G, key heads, B, heads that share one, n] as [G, B, H, n]."""
    return x.transpose(1, 2).flatten(2, 3)


def _multiply(left: Tensor, right: Tensor, runs: Sequence[Run]) -> Tensor:
    """Multiplies [G, key heads, B, s, k] by the columns of [columns, key heads, k, n], in place.

    All queries that share a key head are the rows of one matrix.
    """
    rows = left.flatten(2, 3)
    parts = [
        torch.matmul(rows[first : first + size], right[column : column + size])
        for first, column, size in runs
    ]
    return _joined(parts, 0).unflatten(2, left.shape[2:4])


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    # torch.cat copies even a single tensor.
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
