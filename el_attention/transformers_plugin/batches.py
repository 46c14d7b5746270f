"""Batches of texts, as large as memory allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from el_attention.attention import largest_fitting, plans_for
from el_attention.cost import FRAGMENTATION, Architecture, Memory, Plans, Workload, memory_of
from el_attention.robust.batches import by_length
from el_attention.robust.memory import free_bytes, in_units
from el_attention.state import capacity
from el_attention.transformers_plugin.families import family_of
from el_attention.transformers_plugin.family import architecture_of
from el_attention.transformers_plugin.model import ELModel
from el_attention.transformers_plugin.options import Options
from el_attention.transformers_plugin.served import unserved_model

logger = logging.getLogger(__name__)

# A batch for which the plans are chosen that batches are made for.
TYPICAL_BATCH = 32


class Batches:
    """Cuts texts into batches."""

    def __init__(
        self,
        model: Any,
        options: Options,
        batch_size: int | None,
        budget: int | None,
        states: Callable[[int], int],
    ) -> None:
        """Takes what does not depend on the texts.

        Args:
            model: the model that generates.
            options: the options of the generation.
            batch_size: texts of a batch, at most; None for what the memory holds.
            budget: bytes for states and temporaries; None for the model's own, or what is free now.
            states: says how many tokens or states the model attends to of a source of some length.

        Raises:
            ValueError: if no formula for the memory is known, and no `batch_size`.
        """
        self._options, self._most, self._states = options, batch_size, states
        self._dtype = str(model.dtype).removeprefix("torch.")
        self._device = model.device
        self._arch = _architecture(model)
        if self._arch is None and batch_size is None and options.apart is None:
            raise ValueError(
                f"generate_many: expected a batch_size, because no formula is known for the memory "
                f"of this {type(model).__name__}"
            )
        self._plan: str | None = None
        if isinstance(model, ELModel) and unserved_model(model) is None:
            self._plan = model.el_plan
            budget = model.el_memory_budget if budget is None else budget
        if budget is None:
            if self._plan is not None:
                model.el_spec(model.config.is_encoder_decoder)
            budget = int(free_bytes(self._device) * (1 - FRAGMENTATION))
        self._budget = budget
        self.largest = cache(self._largest)

    def of(self, lengths: Mapping[int, int]) -> Iterator[list[int]]:
        """Yields batches of texts, the longest texts first.

        Args:
            lengths: tokens of each text, by its place.
        """
        return by_length(lengths, self._may_join)

    def _may_join(self, size: int, longest: int, length: int) -> bool:
        if self._options.one_length is not None and length != longest:
            return False
        return size < self.largest(longest)

    def _largest(self, length: int) -> int:
        """Texts of a batch whose longest has `length` tokens; at least one."""
        if self._options.apart is not None:
            return 1
        if self._arch is None:
            assert self._most is not None
            return self._most
        fitting = max(1, largest_fitting(lambda batch: self._needed(length, batch) <= self._budget))
        logger.debug(
            f"batches by memory: {fitting} texts of {self._states(length)} tokens in "
            f"{in_units(self._budget)}, beam {self._options.beam}"
        )
        return fitting if self._most is None else min(fitting, self._most)

    def _needed(self, length: int, batch: int) -> float:
        """Bytes that a batch needs beside the weights."""
        assert self._arch is not None
        load = self._load(length, batch)
        if self._plan is None:
            memory = _stock_memory(self._arch, load)
        else:
            typical = self._load(length, TYPICAL_BATCH)
            plans = plans_for(self._plan, self._arch, typical, self._device, self._budget)
            memory = memory_of(self._arch, plans, load)
        scores = 4 * load.rows * self._arch.vocabulary * load.last_end
        return memory.peak - memory.weights + scores * self._options.keeps_scores

    def _load(self, length: int, batch: int) -> Workload:
        assert self._arch is not None
        beam = self._options.beam
        prompt = self._options.decoder_prompt
        new = max(1, self._options.new_tokens(length if self._arch.encoder is None else prompt))
        # Beams that share no ancestors, and rows that are reserved ahead.
        tokens = -(-capacity(new * beam, beam) // beam)
        return Workload(self._dtype, batch, beam, self._states(length), tokens, tokens)


def _stock_memory(arch: Architecture, load: Workload) -> Memory:
    """Returns the memory that Transformers 5 needs: cache_utils.py, generation/utils.py."""
    # Every beam has its own encoder output, keys and values, as a sentence of its own has here; one
    # layer at a time is copied for a new order of beams.
    apart = replace(load, batch=load.rows, beam=1)
    memory = memory_of(arch, Plans(), apart)
    layer = load.rows * load.source * arch.decoder.width * load.item
    encoding = memory_of(arch, Plans(), load).encoding if arch.encoder else memory.encoding
    return replace(memory, decoding=memory.decoding + layer, encoding=encoding)


def _architecture(model: Any) -> Architecture | None:
    """Returns the shapes of a model, converted or not; None where they are not known."""
    family = family_of(model)
    if family is None or family.unsupported(model) is not None:
        return None
    spec = family.describe(model, has_source=model.config.is_encoder_decoder)
    return architecture_of(model, family, spec)
