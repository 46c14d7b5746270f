"""What a search is given: its settings, and something that scores the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """Settings of a beam search, each as fairseq's option of that name has it.

    Attributes:
        beam: beams of each sentence, B.
        pad: the token that is never chosen.
        unk: the unknown token.
        eos: the token that ends a hypothesis.
        max_len: most tokens of a hypothesis before its eos.
        min_len: fewest tokens before the eos; holds once the prefix of a sentence is over.
        length_penalty: a score is the sum of log-probabilities / (number of tokens) ** this; 0 for
            the sum itself.
        unk_penalty: what is taken from the log-probability of the unknown token, but where a prefix
            forces it.
        suppressed: int64 [n], tokens never chosen, but by a prefix; or None.
        no_repeat_ngram_size: n-grams of this length stand in a hypothesis once; 0 for no limit.
        ngrams_after_prefix: whether they are those that begin after the prefix of the sentence.
    """

    beam: int
    pad: int
    unk: int
    eos: int
    max_len: int
    min_len: int = 1
    length_penalty: float = 1.0
    unk_penalty: float = 0.0
    suppressed: Tensor | None = None
    no_repeat_ngram_size: int = 0
    ngrams_after_prefix: bool = False


class Scorer(Protocol):
    """Scores the next token of every beam, and follows the beams.

    G sentences of B beams each; the beams of a sentence are neighbours: N = G * B rows.
    """

    def score(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores every token after `tokens`.

        Args:
            tokens: int64 [N, T], one token longer than at the last call.

        Returns:
            logits [N, V], which the caller may overwrite, and lse [N]: log-probabilities are
            logits - lse.
        """
        ...

    def score_prefix(self, tokens: Tensor) -> Tensor | None:
        """Scores tokens that all sentences begin with, before the first `score`.

        Args:
            tokens: int64 [G, P], what follows the first token.

        Returns:
            [G, P], the log-probability of each token after those before it, or None if the scorer
            does not know: `score` is asked token by token then.
        """
        ...

    def reorder(self, parents: Tensor) -> None:
        """Lets beams go on from others of their sentence, and drops sentences that have finished.

        Args:
            parents: int64 [N'], on the host, the old row of each new one.
        """
        ...
