"""Sampling where every token that is allowed is very unlikely."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from el_attention.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.search import Sampling as _Base
else:
    _Base = object


class ELSampling(Specialized, _Base):
    """Draws by the probabilities of the tokens that are allowed, however small these are.

    fairseq draws by probabilities that have not been normalized since tokens were forbidden. Where
    all of them round to 0, which a model that is sure of an end of sentence that comes too early
    makes so, its sampling fails.
    """

    def step(
        self, step: int, lprobs: Tensor, scores: Tensor, *more: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws a token for every beam; see fairseq's `Sampling.step`.

        Args:
            step: number of tokens there are.
            lprobs: [sentences, beams, V], -inf where a token is forbidden.
            scores: [sentences, beams, step], sums of log-probabilities.
            more: what fairseq's method does not read.

        Returns:
            Sums of log-probabilities, tokens and beams, [sentences, beams] each.

        Raises:
            ValueError: if a beam has no token that is possible.
        """
        best = lprobs.amax(2)
        drawn = best[:, :1] if step == 0 else best  # beams begin as one
        if drawn.eq(-math.inf).any():
            sentence = int(drawn.eq(-math.inf).any(1).nonzero()[0])
            raise ValueError(
                f"sampling: expected a possible token for every beam, got none in sentence "
                f"{sentence} of those that are not finished; are there NaN in the logits, or is "
                "every token forbidden?"
            )
        vanishes = best < math.log(torch.finfo(lprobs.dtype).tiny)
        if not vanishes.any():
            return super().step(step, lprobs, scores, *more)
        # Rows that fairseq can draw from are left as they are.
        shift = lprobs.logsumexp(2).masked_fill(~vanishes | best.eq(-math.inf), 0)
        sums, tokens, beams = super().step(step, lprobs - shift.unsqueeze(2), scores, *more)
        return sums + shift.gather(1, beams), tokens, beams
