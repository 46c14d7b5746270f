"""Batches as large as memory allows, in place of a number that the user guesses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from fairseq.data import BaseWrapperDataset, FairseqDataset

from el_attention.attention import largest_batch_in, plans_for
from el_attention.cost import FRAGMENTATION, Architecture, Workload
from el_attention.fairseq_plugin.architecture import architecture_of
from el_attention.fairseq_plugin.conversion import unsupported
from el_attention.robust.memory import free_bytes, in_units
from el_attention.state import capacity

logger = logging.getLogger(__name__)

# A batch for which the plans are chosen that batches are made for.
TYPICAL_BATCH = 32


class BatchSizes:
    """The largest batch for sources of each length, by the formulas of the cost model."""

    def __init__(self, models: Sequence[Any], cfg: Any, plan: str, budget: int | None) -> None:
        """Takes what does not depend on the sources.

        Args:
            models: the models of an ensemble, prepared for inference, where they are to run; each
                gets the same part of the memory.
            cfg: fairseq's configuration that they are prepared for; None if they are not.
            plan: one of `PLAN_CHOICES`.
            budget: bytes for states and temporaries; None for what is free now.

        Raises:
            ValueError: if the models are not prepared for a generation, or of another family.
        """
        reasons = [unsupported(model) for model in models]
        if not models or any(reasons) or cfg is None:
            raise ValueError(
                "--batch-by-memory: expected a generation with Transformers, got "
                + (next(filter(None, reasons), None) or "no models that are prepared for one")
            )
        model = models[0]
        parameter = next(model.parameters())
        self._arch: Architecture = architecture_of(model)
        self._device, self._dtype = parameter.device, parameter.dtype
        self._options = cfg.generation
        self._positions = model.max_decoder_positions()
        self._plan = plan
        if budget is None:
            for model in models:
                model.decoder.el_make_narrow(self._arch.encoder is not None)
            budget = int(free_bytes(self._device) * (1 - FRAGMENTATION))
        self._budget = budget // len(models)
        self.largest = cache(self._largest)

    def _largest(self, length: int) -> int:
        """Sentences of a batch whose longest source has `length` tokens; at least one."""
        load = self.load(length, TYPICAL_BATCH)
        plans = plans_for(self._plan, self._arch, load, self._device, self._budget)
        return max(1, largest_batch_in(self._arch, plans, load, self._budget))

    def load(self, length: int, batch: int) -> Workload:
        """What is generated for sources of `length` tokens, at most."""
        options = self._options
        prompt = length if self._arch.encoder is None else 0
        limit = int(options.max_len_a * length + options.max_len_b) - prompt
        tokens = max(1, min(limit, self._positions - 1 - prompt))
        # Beams that share no ancestors, and rows that are reserved ahead.
        tokens = -(-capacity(tokens * options.beam, options.beam) // options.beam)
        dtype = str(self._dtype).removeprefix("torch.")
        return Workload(dtype, batch, options.beam, max(1, length), tokens, tokens)

    def describe(self, length: int) -> str:
        """One line about batches of sources of `length` tokens."""
        return (
            f"batches by memory: {self.largest(length)} sentences of {length} tokens in "
            f"{in_units(self._budget)}, beam {self._options.beam}"
        )


class DatasetByMemory(BaseWrapperDataset):
    """A data set whose batches are as large as memory allows."""

    def __init__(self, dataset: FairseqDataset, sizes: BatchSizes) -> None:
        """Takes the data and the sizes of its batches."""
        super().__init__(dataset)
        self._sizes = sizes

    def batch_by_size(
        self,
        indices: Sequence[int],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[list[int]]:
        """Cuts ordered sentences into batches; the order of the sentences stays.

        Args:
            indices: the indices of the sentences, in order.
            max_tokens: does not matter.
            max_sentences: does not matter.
            required_batch_size_multiple: does not matter.
        """
        batches: list[list[int]] = []
        longest = 0
        for index in indices:
            length = int(self.num_tokens(int(index)))
            longest = max(longest, length)
            if not batches or len(batches[-1]) >= self._sizes.largest(longest):
                batches.append([])
                longest = length
            batches[-1].append(int(index))
        if batches:
            logger.info(self._sizes.describe(longest))
        return batches
