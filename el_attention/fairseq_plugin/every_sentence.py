"""Data sets of which fairseq-generate loses no sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy
from fairseq.data import BaseWrapperDataset

logger = logging.getLogger(__name__)


class EverySentence(BaseWrapperDataset):
    """A data set all of whose sentences are in batches.

    fairseq drops the last batch if its size is no multiple of --required-batch-size-multiple, and
    fails at a sentence of more tokens than --max-tokens.
    """

    def batch_by_size(
        self,
        indices: Sequence[int],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[Sequence[int]]:
        """Makes the batches that the inner data set makes, and then those of the other sentences.

        Args:
            indices: the indices of the sentences, in order.
            max_tokens: the most tokens of a batch; a longer sentence gets a batch of its own.
            max_sentences: the most sentences of a batch.
            required_batch_size_multiple: as in fairseq, but for the last batch.
        """
        alone = [i for i in map(int, indices) if max_tokens and self.num_tokens(i) > max_tokens]
        if alone:
            logger.warning(
                f"{len(alone)} sentences of more than --max-tokens {max_tokens} tokens get a batch "
                f"of their own: {', '.join(map(str, alone))}"
            )
        rest = _without(indices, set(alone))
        batches: list[Sequence[int]] = []
        for multiple in (required_batch_size_multiple, 1):
            if len(rest):
                batches += self.dataset.batch_by_size(
                    rest,
                    max_tokens=max_tokens,
                    max_sentences=max_sentences,
                    required_batch_size_multiple=multiple,
                )
                rest = _without(rest, {int(i) for batch in batches for i in batch})
        return [*batches, *([index] for index in alone)]


def _without(indices: Iterable[int], others: set[int]) -> Any:
    return numpy.array([int(i) for i in indices if int(i) not in others], dtype=numpy.int64)
