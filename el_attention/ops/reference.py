"""Pure-PyTorch operators: the readable specification, and the fallback without compiled kernels.

Notation: G sentences, B beams of each sentence, H heads, W the width of a key, V the width of a
value, U rows.  Equations are those of Yan et al., "EL-Attention", ICML 2021, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Rows that an attention reads: where they lie, without moving them.

    Attributes:
        keys: [rows, columns, kv_heads, W]; one kv head is shared by all H heads.
        values: [rows, columns, kv_heads, V]; may be the same tensor as `keys`.
        columns: int64 [G], the column that holds each sentence.
    """

    keys: Tensor
    values: Tensor
    columns: Tensor


class Attended(NamedTuple):
    """What `attend` returns.

    Attributes:
        context: [G, B, H, V], in the dtype of the values.
        weights: [G, B, H, U + E], softmax over rows and sinks, before `dropout_mask`; at least
            float32; None where nobody asked for them.
        sink_weights: [G, B, H, E], the weights of the sinks after `dropout_mask`; E may be 0.
        mass: [G, B, H, 1], the sum over rows of weights x dropout_mask, or None where it is known
            to be 1.
    """

    context: Tensor
    weights: Tensor | None
    sink_weights: Tensor
    mass: Tensor | None


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which softmax is computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def check_devices(
    tensors: Mapping[str, Tensor | None], error: type[Exception] = ValueError
) -> None:
    """Refuses tensors that are not all on one device.

    torch does not: with one tensor on the meta device, which has no values, it may leave an
    operation out.

    Args:
        tensors: the tensors by name, the first of them on the device that is expected.
        error: what to raise.

    Raises:
        error: naming the first tensor that is elsewhere.
    """
    expected = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if expected is None:
            first, expected = name, tensor.device
        elif tensor.device != expected:
            raise error(f"{name}: expected device {expected}, that of {first}, got {tensor.device}")


def numbered(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the tensors of a list."""
    return {f"{name}[{i}]": tensor for i, tensor in enumerate(tensors)}


def expand(query: Tensor, key_weight: Tensor) -> Tensor:
    """Moves the key projection to the query: e_i = q_i Wk_i^T.

    Args:
        query: [..., H, head_dim], scaled.
        key_weight: [H * head_dim, W], as in `nn.Linear(W, H * head_dim)`.

    Returns:
        [..., H, W], the expanded query.

    Raises:
        ValueError: if `key_weight` does not have H * head_dim rows, or is on another device.
    """
    check_devices({"query": query, "key_weight": key_weight})
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
        ValueError: if `value_weight` cannot be divided among the heads, or a tensor is on another
            device than the context.
    """
    check_devices(
        {
            "context": context,
            "value_weight": value_weight,
            "value_bias": value_bias,
            "mass": mass,
        }
    )
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
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    need_weights: bool = True,
) -> Attended:
    """Attends from the beams of every sentence to the rows of that sentence, read in place.

    p = softmax over visible rows and sinks of (query . key + bias); context = sum over rows of
    p x dropout_mask x value.  Rows that a beam does not see have weight 0 exactly; a beam that sees
    nothing gets weights and context 0.  For each beam, a row that it does not see counts as not
    there, and may hold anything, NaN included.

    A bias of -inf gives a row weight 0 exactly for that head, and a head without another row gets
    weights and context 0, as if it saw nothing.  But the row is read: it must hold finite numbers.

    Args:
        query: [G, B, H, W].
        rows: segments of the row axis, whose sizes add up to U.
        visible: bool [G, B or 1, U], or None where every beam sees every row.
        bias: [G, H, U], added to the scores of the rows, of all beams alike, or None for 0; in
            float32, or float64 where the query is.  No NaN, no +inf.
        sinks: [G, B, H, E], scores of keys outside the rows, always visible.
        dropout_mask: [G, B, H, U + E], factors on the weights, or None for 1.
        need_weights: whether weights are to be returned.

    Returns:
        context, weights, sink weights and mass; see `Attended`.

    Raises:
        ValueError: if the shapes do not fit together, the bias is of another dtype, or not all
            tensors are on one device.
    """
    check_devices(
        {
            "query": query,
            **numbered("keys", [segment.keys for segment in rows]),
            **numbered("values", [segment.values for segment in rows]),
            **numbered("columns", [segment.columns for segment in rows]),
            "visible": visible,
            "bias": bias,
            "sinks": sinks,
            "dropout_mask": dropout_mask,
        }
    )
    groups, beam, heads = query.shape[:3]
    lengths = [segment.keys.size(0) for segment in rows]
    total = sum(lengths)
    if visible is not None and (visible.size(0), visible.size(-1)) != (groups, total):
        raise ValueError(
            f"visible: expected [{groups}, 1 or {beam}, {total}], got {tuple(visible.shape)}"
        )
    if bias is not None:
        if bias.dtype != softmax_dtype(query.dtype):
            raise ValueError(f"bias: expected dtype {softmax_dtype(query.dtype)}, got {bias.dtype}")
        if bias.shape != (groups, heads, total):
            raise ValueError(
                f"bias: expected [{groups}, {heads}, {total}], got {tuple(bias.shape)}"
            )
    kv_heads = rows[0].keys.size(2)
    query = _by_kv_head(query, kv_heads)
    runs = [_runs(segment.columns) for segment in rows]
    products = [
        _multiply(query, segment.keys.permute(1, 2, 3, 0), where)
        for segment, where in zip(rows, runs, strict=True)
    ]
    scores = _joined(products, -1).to(softmax_dtype(query.dtype))
    if bias is not None:
        scores = scores + bias.unflatten(1, (kv_heads, 1, -1))
    if visible is not None:
        scores.masked_fill_(~visible[:, None, :, None], float("-inf"))
    blank = None  # which queries see no row
    if bias is not None:
        blank = scores.isneginf().all(-1, keepdim=True)
    elif visible is not None:
        blank = ~visible.any(-1)[:, None, :, None, None]
    extra = 0 if sinks is None else sinks.size(-1)
    if sinks is not None:
        scores = torch.cat([scores, _by_kv_head(sinks.to(scores.dtype), kv_heads)], -1)
    weights = torch.softmax(scores, dim=-1)
    blind = total == 0 or (blank is not None and bool(blank.any()))
    if blind and blank is not None and not extra:  # softmax over nothing is NaN
        weights = weights.masked_fill(blank, 0.0)

    kept = weights if dropout_mask is None else weights * _by_kv_head(dropout_mask, kv_heads)
    kept, sink_weights = kept.split([total, extra], -1)
    mass = kept.sum(-1, keepdim=True) if blind or extra or dropout_mask is not None else None
    parts = kept.to(query.dtype).split(lengths, -1)
    values = [segment.values for segment in rows]
    context = _context(parts, values, runs)
    if visible is not None and not bool(context.isfinite().all()):
        # 0 x NaN is not 0.  This is rare, so that rows are not copied unless it happens.
        contexts = []
        for b, seen in enumerate(visible.unbind(1)):
            masks = seen.split(lengths, -1)
            values = [_blanked(p, mask) for p, mask in zip(rows, masks, strict=True)]
            beams = [part[:, :, b : b + 1] if visible.size(1) > 1 else part for part in parts]
            contexts.append(_context(beams, values, [[Run(0, 0, groups)]] * len(rows)))
        context = _joined(contexts, 2)
    return Attended(
        _by_beam(context),
        _by_beam(weights) if need_weights else None,
        _by_beam(sink_weights),
        None if mass is None else _by_beam(mass),
    )


def block_ngrams_(
    lprobs: Tensor, tokens: Tensor, size: int, length: int, forced: Tensor | None
) -> None:
    """Forbids, in place, tokens that would complete an n-gram for the second time.

    Args:
        lprobs: [N, vocabulary]; what is forbidden is set to -inf.
        tokens: int64 [N, columns]; the first token of a row is not part of any n-gram.
        size: tokens of an n-gram, at least 1.
        length: number of tokens that are there, the first included.
        forced: bool [N], rows in which nothing is forbidden, or None.

    Raises:
        ValueError: if not all tensors are on one device.
    """
    check_devices({"lprobs": lprobs, "tokens": tokens, "forced": forced})
    history = tokens[:, 1:length]
    if history.size(1) < size:
        return
    ngrams = history.unfold(1, size, 1)
    last = history[:, history.size(1) - size + 1 :]
    repeated = (ngrams[:, :, :-1] == last.unsqueeze(1)).all(-1)
    if forced is not None:
        repeated &= ~forced[:, None]
    rows, starts = repeated.nonzero(as_tuple=True)
    lprobs[rows, ngrams[rows, starts, -1]] = -math.inf


def log_sum_exp(logits: Tensor) -> Tensor:
    """Returns the logarithm of the sum of exp(logit): log-probabilities are logits minus it.

    Args:
        logits: [N, vocabulary], last dimension contiguous.

    Returns:
        [N], float32, or float64 for float64; -inf for a row of -inf, NaN for a row with NaN.
    """
    return logits.to(softmax_dtype(logits.dtype)).logsumexp(-1)


def top_candidates(
    logits: Tensor, lse: Tensor, scores: Tensor, beam: int, k: int
) -> tuple[Tensor, Tensor]:
    """Finds the k best one-token continuations of the beams of each sentence.

    Token v after beam b is candidate b * vocabulary + v of its sentence, and is worth
    (logits[b, v] - lse[b]) + scores[b]; where that is NaN, -inf.

    Args:
        logits: [G * beam, vocabulary], last dimension contiguous; -inf in tokens that are not to be
            chosen, written there after `lse` was computed.
        lse: [G * beam], from `log_sum_exp`.
        scores: [G * beam], what the beams are worth, in the dtype of `lse`.
        beam: rows of logits of each sentence.
        k: 1 to beam * vocabulary.

    Returns:
        Values [G, k] in descending order, in the dtype of `lse`, and int64 [G, k], which candidate
        each of them is.  Of equal candidates the lower comes first.

    Raises:
        ValueError: if `logits` cannot be divided into sentences, or has fewer than k candidates, or
            not all tensors are on one device.
    """
    check_devices({"logits": logits, "lse": lse, "scores": scores})
    if beam < 1 or logits.size(0) % beam:
        raise ValueError(f"beam: expected a divisor of {logits.size(0)} rows, got {beam}")
    if not 1 <= k <= beam * logits.size(1):
        raise ValueError(f"k: expected 1 to {beam * logits.size(1)}, got {k}")
    values = logits.to(lse.dtype) - lse.unsqueeze(1)
    values = (values + scores.unsqueeze(1)).view(-1, beam * logits.size(1))
    values = values.nan_to_num(-math.inf, math.inf, -math.inf)
    best, index = values.topk(min(k + 1, values.size(1)))
    # torch.topk takes any of equal candidates: that matters if the first one left out is one.
    if values.size(1) > k and bool((best[:, k] == best[:, k - 1]).any()):
        best, index = values.sort(descending=True, stable=True)
    index, order = index[:, :k].sort()
    best, rank = best.gather(1, order).sort(descending=True, stable=True)
    return best, index.gather(1, rank)


class Run(NamedTuple):
    """`size` sentences in a row, from `sentence` on, whose columns start at `column`."""

    sentence: int
    column: int
    size: int


def _runs(columns: Tensor) -> list[Run]:
    """Groups sentences whose columns follow one another: each run is one matrix product."""
    runs: list[Run] = []
    for sentence, column in enumerate(columns.tolist()):
        if runs and runs[-1].column + runs[-1].size == column:
            runs[-1] = runs[-1]._replace(size=runs[-1].size + 1)
        else:
            runs.append(Run(sentence, column, 1))
    return runs


def _by_head(weight: Tensor, query: Tensor, name: str) -> Tensor:
    """Views [H * head_dim, W] as [H, head_dim, W]."""
    heads, head_dim = query.shape[-2:]
    if weight.size(0) != heads * head_dim:
        raise ValueError(
            f"{name}: expected {heads} x {head_dim} rows to match the query, "
            f"got {tuple(weight.shape)}"
        )
    return weight.view(heads, head_dim, weight.size(1))


def _by_kv_head(x: Tensor, kv_heads: int) -> Tensor:
    """Views [G, B, H, n] as [G, kv_heads, B, heads that share one, n]."""
    return x.unflatten(2, (kv_heads, -1)).transpose(1, 2)


def _by_beam(x: Tensor) -> Tensor:
    """Views [G, kv_heads, B, heads that share one, n] as [G, B, H, n]."""
    return x.transpose(1, 2).flatten(2, 3)


def _multiply(left: Tensor, right: Tensor, runs: Sequence[Run]) -> Tensor:
    """Multiplies [G, kv_heads, B, s, k] by the columns of [columns, kv_heads, k, n], in place.

    All queries that share a kv head are the rows of one matrix.
    """
    rows = left.flatten(2, 3)
    parts = [
        torch.matmul(rows[first : first + size], right[column : column + size])
        for first, column, size in runs
    ]
    return _joined(parts, 0).unflatten(2, left.shape[2:4])


def _context(
    weights: Sequence[Tensor], values: Sequence[Tensor], runs: Sequence[Sequence[Run]]
) -> Tensor:
    """Sums weights x values over the segments: [G, kv_heads, B, heads that share one, V]."""
    products = [
        _multiply(part, block.permute(1, 2, 0, 3), where)
        for part, block, where in zip(weights, values, runs, strict=True)
    ]
    context = products[0]
    for product in products[1:]:
        context += product
    return context


def _blanked(segment: Rows, seen: Tensor) -> Tensor:
    """Copies the values of the sentences, with 0 in rows that are not in `seen` [G, rows]."""
    return segment.values[:, segment.columns].masked_fill(~seen.t()[..., None, None], 0.0)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    # torch.cat copies even a single tensor.
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
