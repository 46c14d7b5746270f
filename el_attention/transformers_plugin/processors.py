"""Logits processors of Transformers: which of them need no log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as stock

from el_attention.ops import block_ngrams_

# Processors that set some tokens to -inf, by row, and whether they do so at a length. As -inf is
# the same in logits and in log-probabilities, they may be given logits.
FORBIDDING: dict[type, Callable[[Any, int], bool]] = {
    stock.MinLengthLogitsProcessor: lambda p, length: length < p.min_length,
    stock.MinNewTokensLengthLogitsProcessor: lambda p, length: (
        length - p.prompt_length_to_skip < p.min_new_tokens
    ),
    stock.NoBadWordsLogitsProcessor: lambda p, length: True,
    stock.NoRepeatNGramLogitsProcessor: lambda p, length: length >= p.ngram_size,
    stock.SuppressTokensAtBeginLogitsProcessor: lambda p, length: length == p.begin_index,
    stock.SuppressTokensLogitsProcessor: lambda p, length: True,
}
# Processors that set log-probabilities to 0, by row, and whether they do so at a length.
FORCING: dict[type, Callable[[Any, int], bool]] = {
    stock.ForcedBOSTokenLogitsProcessor: lambda p, length: length == 1,
    stock.ForcedEOSTokenLogitsProcessor: lambda p, length: length == p.max_length - 1,
}
_ACTS = {**FORBIDDING, **FORCING}


class Processors:
    """The processors of a run.

    Attributes:
        by_row: whether each row is processed without the others, and without its number.
    """

    def __init__(self, processors: stock.LogitsProcessorList) -> None:
        """Takes the processors that `generate` has put together."""
        self._all = processors
        self._prompt_has_logits: bool | None = None
        self.by_row = all(type(processor) in _ACTS for processor in processors)

    def take_logits(self, length: int) -> bool:
        """Whether `forbid` does what the processors do, for sequences of `length` tokens."""
        return self.by_row and not any(
            type(processor) in FORCING and FORCING[type(processor)](processor, length)
            for processor in self._all
        )

    def forbid(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """Sets the logits of tokens that are forbidden to -inf.

        Args:
            tokens: int64 [N, T], the sequences.
            logits: [N, V], which may be overwritten.

        Returns:
            [N, V].
        """
        length = tokens.size(1)
        for processor in self._all:
            if not _ACTS[type(processor)](processor, length):
                continue
            if isinstance(processor, stock.NoRepeatNGramLogitsProcessor) and (
                self._has_logits(tokens, logits)
            ):
                # The operator leaves the first token out, which here is part of n-grams, too.
                shifted = torch.cat([tokens[:, :1], tokens], 1)
                block_ngrams_(logits, shifted, processor.ngram_size, length + 1, None)
            else:
                logits = processor(tokens, logits)
        return logits

    def _has_logits(self, tokens: Tensor, logits: Tensor) -> bool:
        """Whether all tokens have a logit, asked once: those that a search adds do."""
        if self._prompt_has_logits is None:
            self._prompt_has_logits = int(tokens.max()) < logits.size(1)
        return self._prompt_has_logits

    def __call__(self, tokens: Tensor, log_probs: Tensor) -> Tensor:
        """Processes log-probabilities [N, V] as Transformers does."""
        processors: Any = self._all  # its hints name classes that no tensor has
        processed: Tensor = processors(tokens, log_probs)
        return processed
