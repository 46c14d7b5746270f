"""Splits a batch that does not fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from el_attention.plugin.parts import (
    Generator,
    Results,
    generate_part,
    reason_against_parts,
    sentences_of,
)
from el_attention.robust.memory import is_out_of_memory, release

logger = logging.getLogger(__name__)


class SplittingGenerator:
    """A generator that halves a batch for which memory does not suffice, down to one sentence.

    The hypotheses are those of the undivided batch, in its order.  Where they are drawn at random
    (sampling, retained dropout) other numbers are drawn.
    """

    def __init__(self, generator: Generator) -> None:
        """Stands before `generator`."""
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments.

        Raises:
            MemoryError: if a single sentence does not fit, or a batch that cannot be split.
        """
        return self._generate(models, sample, arguments, range(sentences_of(sample)))

    def _generate(
        self, models: Any, sample: dict[str, Any], arguments: Mapping[str, Any], part: range
    ) -> Results:
        size = f"sources of {sample['net_input']['src_tokens'].size(1)} tokens"
        beam = getattr(self._generator, "beam_size", 1)
        try:
            return generate_part(self._generator, models, sample, arguments, part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if len(part) == 1:
                raise MemoryError(
                    f"out of memory with a single sentence ({size}, beam {beam}): {reason}"
                ) from error
            against = reason_against_parts({**sample, **arguments}, sentences_of(sample))
            if against is not None:
                raise MemoryError(
                    f"out of memory with {len(part)} sentences ({size}, beam {beam}), which cannot "
                    f"be split, because of {against}; {reason}"
                ) from error
        # Only here: before, the error's traceback held the tensors of the attempt.
        release()
        halves = part[: (len(part) + 1) // 2], part[(len(part) + 1) // 2 :]
        logger.warning(
            f"out of memory with {len(part)} sentences ({size}, beam {beam}): trying "
            f"{len(halves[0])} and {len(halves[1])} instead; {reason}"
        )
        return [
            hypotheses
            for half in halves
            for hypotheses in self._generate(models, sample, arguments, half)
        ]
