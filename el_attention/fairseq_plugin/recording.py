"""Generation that survives being killed: finished sentences are kept in a journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from el_attention.fairseq_plugin.parts import (
    PER_SENTENCE,
    Results,
    generate_part,
    sentences_of,
    unsupported_parts,
)
from el_attention.fairseq_plugin.refusal import is_refusal
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper, innermost
from el_attention.robust.description import describe, digest, plain_values
from el_attention.robust.journal import Entry, Journal
from el_attention.robust.memory import with_room
from el_attention.robust.random_numbers import random_state, set_random_state
from el_attention.robust.tensors import from_json, to_json

# Rows of tokens; the others hold numbers, some of which may equal that of the padding. Sources may
# be padded on the left, too.
_PADDED = ("src_tokens", "prev_output_tokens", "target", "prefix_tokens")
# What else the values of fairseq's generators are kept in.
_PARTS = ("search", "repeat_ngram_blocker")


class RecordingGenerator(GeneratorWrapper):
    """A generator that records the hypotheses of every sentence, and returns recorded ones.

    Where hypotheses are drawn at random, they are returned only where the random numbers are what
    they were, and leave these as they did then: the run goes on as if it had not been interrupted.
    A copy records in the same journal; one that was pickled, which may be in another process, does
    not record.
    """

    def __init__(self, generator: Any, journal: Journal, by_sentence: bool = False) -> None:
        """Stands before a generator.

        Args:
            generator: a generator of sequences or, if it has no beam, of scores.
            journal: the journal of this run.
            by_sentence: whether hypotheses are returned to a sentence in any batch. Their scores
                depend on the batch in the last digit; limits of length must be each sentence's own.
        """
        super().__init__(generator)
        self._journal: Journal | None = journal
        self._by_sentence = by_sentence

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments.

        Raises:
            OSError: if the journal cannot be written.
            MemoryError: if memory does not suffice for a record, twice.
            ValueError: if the batch holds what cannot be told apart in another run.
        """
        journal = self._journal
        if journal is None:
            return generate_part(
                self._generator, models, sample, arguments, range(sentences_of(sample))
            )
        device = sample["net_input"]["src_tokens"].device
        before = random_state(device)
        number = sentences_of(sample)
        apart = self._by_sentence and unsupported_parts({**sample, **arguments}, number) is None
        keys = with_room(lambda: sentence_keys(self._generator, sample, arguments, apart))
        drawn = [f"{key} {digest(before)}" for key in keys]
        entries = [journal.take(key) or journal.take(d) for key, d in zip(keys, drawn, strict=True)]
        recorded = with_room(lambda: _recorded(journal, entries, device))
        missing = [sentence for sentence, found in enumerate(recorded) if found is None]
        if missing and not apart:
            missing = [*range(number)]
        for sentence, entry in enumerate(entries):
            if entry is not None and entry.moment is not None and sentence not in missing:
                set_random_state(device, entry.moment)
        results = [hypotheses or [] for hypotheses in recorded]
        if missing:
            start = random_state(device)
            new = generate_part(self._generator, models, sample, arguments, missing)
            after = random_state(device)
            for sentence, hypotheses in zip(missing, new, strict=True):
                results[sentence] = hypotheses
            names, moment = (keys, None) if after == start else (drawn, after)
            # What was refused for want of memory may be answered by a run that has more.
            answered = [i for i in missing if not is_refusal(results[i])]
            if answered:
                with_room(
                    lambda: journal.add([(names[i], to_json(results[i])) for i in answered], moment)
                )
        return results


def sentence_keys(
    generator: Any, sample: Mapping[str, Any], arguments: Mapping[str, Any], by_sentence: bool
) -> list[str]:
    """Digests everything in a batch that the hypotheses of each sentence depend on.

    Args:
        generator: a generator of sequences or, if it has no beam, of scores.
        sample: the batch.
        arguments: the arguments of `generate`.
        by_sentence: whether a sentence is to have the same key in any batch; else its place and
            all other sentences, padding included, are in its key. `unsupported_parts` must have
            nothing against the batch then.

    Returns:
        A key for each sentence.

    Raises:
        ValueError: if there is something in the batch that cannot be told apart in another run.
    """
    inputs = {**sample["net_input"], **arguments}
    if hasattr(generator, "beam_size"):
        inputs.pop("prev_output_tokens", None)
    else:
        inputs["target"] = sample["target"]
    search = getattr(generator, "search", None)
    if not by_sentence or hasattr(search, "prefix_allowed_tokens_fn"):
        inputs["id"] = sample.get("id")
    values = _values_of(innermost(generator))
    number = sentences_of(sample)
    if not by_sentence:
        batch = digest([values, inputs])
        return [f"{batch} {sentence}" for sentence in range(number)]
    common = digest([values, {k: v for k, v in inputs.items() if k not in PER_SENTENCE}])
    rows: list[dict[str, Any]] = [{} for _ in range(number)]
    for name, value in inputs.items():
        if name in PER_SENTENCE and value is not None:
            for row, line in zip(rows, value.cpu(), strict=True):
                row[name] = _without_padding(name, line, generator.pad)
    return [digest([common, row]) for row in rows]


def _recorded(
    journal: Journal, entries: list[Entry | None], device: torch.device
) -> list[list[dict[str, Any]] | None]:
    """Reads the hypotheses of each sentence; None for one that is not recorded, or damaged."""
    results: list[list[dict[str, Any]] | None] = []
    for entry in entries:
        hypotheses = None
        if entry is not None:
            try:
                hypotheses = _hypotheses(from_json(entry.value, device))
            except ValueError as error:
                journal.damaged(entry.line, str(error))
        results.append(hypotheses)
    return results


def _hypotheses(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(item, dict) and item for item in value):
        return value
    raise ValueError("expected hypotheses")


def _values_of(generator: Any) -> Any:
    """What users may change on a live generator."""
    tensors = {name: v for name, v in vars(generator).items() if isinstance(v, Tensor)}
    parts = [generator, *(getattr(generator, name, None) for name in _PARTS)]
    values = [
        [type(part).__qualname__, plain_values(part)]
        for part in parts
        if part is not None and hasattr(part, "__dict__")
    ]
    return [values, describe(tensors)]


def _without_padding(name: str, line: Tensor, pad: int) -> Any:
    """A row as a list, without the padding of its batch."""
    values = line.tolist()
    if name not in _PADDED or not isinstance(values, list):
        return values
    while values and values[-1] == pad:
        values.pop()
    if name == "src_tokens":
        first = next((place for place, token in enumerate(values) if token != pad), 0)
        values = values[first:]
    return values
