"""What a search forbids, row by row: `-inf` in the scores of the next token."""

from __future__ import annotations

import math

from torch import Tensor

from el_attention.ops import block_ngrams_


def prefix_is_over(prefix: Tensor, position: int, pad: int) -> Tensor:
    """Returns bool [G]: whether `prefix`, int64 [G, P], has only padding from `position` on."""
    return prefix[:, position:].eq(pad).all(1)


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
    scores: Tensor, tokens: Tensor, size: int, length: int, eos: int | None
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
    """
    history = tokens[:, 1:length]
    if history.size(1) < size:
        return
    ended = None if eos is None else history.eq(eos).any(1)
    before = scores.gather(1, history)  # only these can become forbidden
    block_ngrams_(scores, tokens, size, length, ended)
    rows = scores.amax(1).eq(-math.inf).nonzero().flatten()
    if len(rows):
        scores[rows] = scores[rows].scatter(1, history[rows], before[rows])
