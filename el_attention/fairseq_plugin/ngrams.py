"""`--no-repeat-ngram-size` as its documentation has it, on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from el_attention.search.restrictions import forbid_repeats_


class NGramBlock(nn.Module):
    """Forbids tokens that would complete an n-gram for the second time.

    The n-grams are those of the whole sequence after its first token, a prompt included.  A word
    that a lexical constraint asks for next is not forbidden, nor is the last word that a row has
    left; a row that has ended is left alone.  Stock fairseq blocks on a GPU with its own extension
    only and silently does nothing elsewhere.

    Attributes:
        size: length of the n-grams.
        eos: the token that ends a row, or None.
        search: fairseq's search strategy, which knows the constraints, or None.
        skipped: int64 [rows], how many tokens after the first are part of no n-gram, of the next
            call alone; None for none.
    """

    skipped: Tensor | None = None

    def __init__(self, size: int, eos: int | None = None, search: nn.Module | None = None) -> None:
        """Takes the length of the n-grams, at least 1, and the rest as in the attributes."""
        super().__init__()
        self.size = size
        self.eos = eos
        self.search = search

    def forward(
        self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int
    ) -> Tensor:
        """Sets the log-probabilities of forbidden tokens to -inf, in place.

        Args:
            tokens: int64 [bsz * beam_size, length], of which step + 1 are there.
            lprobs: [bsz * beam_size, vocabulary].
            bsz: sentences.
            beam_size: beams of each.
            step: number of tokens generated so far.

        Returns:
            `lprobs`.
        """
        rows, words = self._constrained(lprobs.device)
        kept = lprobs[rows, words]
        skipped, self.skipped = self.skipped, None
        forbid_repeats_(lprobs, tokens, self.size, step + 1, self.eos, skipped)
        lprobs[rows, words] = kept
        return lprobs

    def _constrained(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the rows and the words, int64 [n] each, that constraints ask for next."""
        sentences: list[list[Any]] = getattr(self.search, "constraint_states", None) or []
        beams = [beam for sentence in sentences for beam in sentence]
        wanted = [(row, word) for row, beam in enumerate(beams) for word in beam.next_tokens()]
        rows, words = torch.tensor(wanted, dtype=torch.int64, device=device).view(-1, 2).unbind(1)
        return rows, words
