"""What a search forbids, row by row: `-inf` in the scores of the next token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from el_attention.ops import block_ngrams_


def prefix_is_over(prefix: Tensor, position: int, pad: int) -> Tensor:
    """Returns bool [G]: whether `prefix`, int64 [G, P], has only padding from `position` on."""
    return prefix[:, position:].eq(pad).all(1)


def prefix_lengths(prefix: Tensor, pad: int) -> Tensor:
    """Returns int64 [G]: where `prefix_is_over` begins to hold for `prefix`, int64 [G, P]."""
    numbers = torch.arange(1, prefix.size(1) + 1, device=prefix.device)
    ends = prefix.ne(pad) * numbers
    return torch.cat([ends.new_zeros(len(ends), 1), ends], 1).amax(1)


def forbid_(scores: Tensor, tokens: Tensor | int, rows: Tensor | None) -> None:
    """Forbids tokens in some rows, in place.

    Args:
        scores: [N, V].
        tokens: int64 [n], or one token.
        rows: bool [N], or None for all.
    """
    if rows is None:
        scores[:, tokens] = -math.inf
    elif isinstance(tokens, int):
        scores[:, tokens] = scores[:, tokens].masked_fill(rows, -math.inf)
    else:
        scores[:, tokens] = scores[:, tokens].masked_fill(rows.unsqueeze(1), -math.inf)


def forbid_repeats_(
    scores: Tensor,
    tokens: Tensor,
    size: int,
    length: int,
    eos: int | None,
    skipped: Tensor | None = None,
) -> None:
    """Forbids, in place, tokens that would complete an n-gram for the second time.

    A row that has ended is left alone, and so is a row in which no token would be left, for example
    where a prefix or the longest length forces one.

    Args:
        scores: [N, V], -inf where a token was forbidden before.
        tokens: int64 [N, columns]; the first token of a row is not part of any n-gram.
        size: tokens of an n-gram, at least 1.
        length: number of tokens that are there, the first included.
        eos: the token that ends a row; None where rows do not end.
        skipped: int64 [N], the number of tokens after the first that are part of no n-gram either;
            None for none.
    """
    if skipped is not None:
        for number in skipped.unique().tolist():
            rows = skipped.eq(number).nonzero().flatten()
            own = scores[rows]
            forbid_repeats_(own, tokens[rows, number:], size, max(1, length - number), eos)
            scores[rows] = own
        return
    history = tokens[:, 1:length]
    if history.size(1) < size:
        return
    ended = None if eos is None else history.eq(eos).any(1)
    before = scores.gather(1, history)  # only these can become forbidden
    block_ngrams_(scores, tokens, size, length, ended)
    is_empty = scores.amax(1, keepdim=True).eq(-math.inf)
    scores.scatter_(1, history, torch.where(is_empty, before, scores.gather(1, history)))
