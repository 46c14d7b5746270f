"""Splits a batch that does not fit in memory."""

from __future__ import annotations

from typing import Any

from el_attention.fairseq_plugin.parts import (
    Results,
    generate_part,
    reason_against_parts,
    sentences_of,
)
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper
from el_attention.robust.splitting import in_parts


class SplittingGenerator(GeneratorWrapper):
    """A generator that halves a batch for which memory does not suffice, down to one sentence.

    The hypotheses are those of the undivided batch, in its order.  Where they are drawn at random
    (sampling, retained dropout) other numbers are drawn.
    """

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments.

        Raises:
            MemoryError: if a single sentence does not fit, or a batch that cannot be split.
        """
        number = sentences_of(sample)
        length = sample["net_input"]["src_tokens"].size(1)
        beam = getattr(self._generator, "beam_size", 1)
        return in_parts(
            lambda part: generate_part(self._generator, models, sample, arguments, part),
            number,
            f"sources of {length} tokens, beam {beam}",
            lambda: reason_against_parts({**sample, **arguments}, number),
        )
