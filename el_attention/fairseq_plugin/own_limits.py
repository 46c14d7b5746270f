"""Length limits that do not depend on the batch that a sentence happens to be in."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from el_attention.fairseq_plugin.parts import (
    Results,
    rows_of,
    say_once,
    select,
    sentences_of,
    unsupported_parts,
    without_padding,
)
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper


class OwnLimitsGenerator(GeneratorWrapper):
    """A generator that limits every hypothesis by the length of its own source.

    fairseq's limit, `max_len_a` times the length of the longest source of the batch plus
    `max_len_b`, counts padding.  Where batches are made by memory, hypotheses would depend on how
    much of it is free.  So sentences with other limits are generated apart, without the padding.
    """

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments."""
        groups = self._groups(sample["net_input"])
        number = sentences_of(sample)
        reason = unsupported_parts({**sample, **arguments}, number) if groups else None
        if reason is not None:
            say_once(f"limits of length count padding, as in fairseq, because of {reason}")
        if not groups or reason is not None:
            return self._generator.generate(models, sample, **arguments)
        results: Results = [[] for _ in range(number)]
        for group in groups:
            index = torch.tensor(group)
            part = without_padding(select(self._generator, sample, index), self._generator.pad)
            new = self._generator.generate(models, part, **rows_of(arguments, index))
            for sentence, hypotheses in zip(group, new, strict=True):
                results[sentence] = hypotheses
        return results

    def _groups(self, net_input: dict[str, Any]) -> list[list[int]]:
        """The sentences of each limit; none if limits do not depend on sources."""
        generator: Any = self._generator
        if not getattr(generator, "match_source_len", False):
            if not getattr(generator, "max_len_a", 0):
                return []
            lengths = net_input["src_tokens"].ne(generator.pad).sum(1)
            scale, offset, most = generator.max_len_a, generator.max_len_b, generator.max_len - 1
            limits = [min(int(scale * length + offset), most) for length in lengths.tolist()]
        else:
            tokens, lengths = net_input["src_tokens"], net_input.get("src_lengths")
            if lengths is None:
                lengths = (tokens.ne(generator.eos) & tokens.ne(generator.pad)).sum(1)
            limits = lengths.tolist()
        groups: dict[int, list[int]] = defaultdict(list)
        for sentence, limit in enumerate(limits):
            groups[limit].append(sentence)
        return [*groups.values()]
