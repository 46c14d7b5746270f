"""`--no-repeat-ngram-size` as its documentation has it, on every device."""

from __future__ import annotations

from torch import Tensor, nn

from el_attention.ops import block_ngrams_


class NGramBlock(nn.Module):
    """Forbids tokens that would complete an n-gram for the second time.

    The n-grams are those of the whole sequence after its first token, a prompt included; tokens
    that a prompt forces are never forbidden.  Stock fairseq does this on a GPU with its own
    extension only and silently does nothing elsewhere.

    Attributes:
        size: length of the n-grams.
        forced: bool [beams], whose next token a prompt forces; for one call.
    """

    def __init__(self, size: int) -> None:
        """Takes the length of the n-grams, at least 1."""
        super().__init__()
        self.size = size
        self.forced: Tensor | None = None

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
        forced, self.forced = self.forced, None
        block_ngrams_(lprobs, tokens, self.size, step + 1, forced)
        return lprobs
