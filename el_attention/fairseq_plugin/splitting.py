"""Splits a batch that does not fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from el_attention.fairseq_plugin.parts import (
    Results,
    generate_part,
    rows_of,
    select,
    sentences_of,
    unsupported_parts,
    without_padding,
)
from el_attention.fairseq_plugin.refusal import ANSWER, refusal
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper
from el_attention.robust.memory import is_out_of_memory, release
from el_attention.robust.splitting import in_parts

logger = logging.getLogger(__name__)


class SplittingGenerator(GeneratorWrapper):
    """A generator that halves a batch for which memory does not suffice, down to one sentence.

    The hypotheses are those of the undivided batch, in its order.  Where they are drawn at random
    (sampling, retained dropout) other numbers are drawn.
    """

    def __init__(self, generator: Any, name_of: Callable[[Tensor], str] | None = None) -> None:
        """Stands before a generator.

        Args:
            generator: a generator of sequences or of scores.
            name_of: names a sentence by its source tokens, int64 [length]; with it a sentence that
                does not fit, even without padding, is no error, but named in a warning and refused.
        """
        super().__init__(generator)
        self._name_of = name_of

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments.

        Raises:
            MemoryError: if a single sentence does not fit and is not to be refused, or a batch that
                cannot be split.
        """
        number, length = sentences_of(sample), sample["net_input"]["src_tokens"].size(1)
        beam = getattr(self._generator, "beam_size", 1)

        def padded(part: range) -> Results:
            return generate_part(self._generator, models, sample, arguments, part)

        def unpadded(part: range) -> Results:
            index = torch.tensor(part)
            alone = without_padding(select(self._generator, sample, index), self._generator.pad)
            results: Results = self._generator.generate(models, alone, **rows_of(arguments, index))
            return results

        def work(part: range) -> Results:
            if self._name_of is None or len(part) > 1:
                return padded(part)
            for attempt in (padded, unpadded):  # a line is not refused for a longer one's sake
                try:
                    return attempt(part)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                # Only here: before, the error's traceback held the tensors of the attempt.
                release()
            tokens = sample["net_input"]["src_tokens"][part[0]]
            logger.warning(
                f"{self._name_of(tokens)}: out of memory with this sentence alone (beam {beam}): "
                f"{reason}; {ANSWER}"
            )
            return [refusal(tokens.device)]

        return in_parts(
            work,
            number,
            f"sources of {length} tokens, beam {beam}",
            lambda: unsupported_parts({**sample, **arguments}, number),
        )
