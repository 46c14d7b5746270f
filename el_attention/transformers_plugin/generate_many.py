"""Generation for any number of texts: full batches, no text lost, continued after a kill."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from os import PathLike
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from el_attention.robust.description import digest
from el_attention.robust.journal import Entry, Journal
from el_attention.transformers_plugin.text_generator import Generated, TextGenerator


def generate_many(
    model: Any,
    tokenizer: Any,
    texts: Iterable[object],
    *,
    journal: str | PathLike[str] | None = None,
    memory_budget: int | None = None,
    batch_size: int | None = None,
    truncation: bool = False,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> list[Generated]:
    """Generates for many texts, or sounds, with a model of Transformers, converted or not.

    The texts are sorted by length and put into batches that fill the memory; a batch that does not
    fit is halved. The hypotheses of a text are those of `model.generate` for it alone: where an
    option would make them depend on the padding, only texts of one length share a batch, and where
    it would make them depend on the other texts, a text has a batch of its own; the log says so.

    Args:
        model: a model of Transformers, in evaluation mode, that reads tokens or hears (Whisper,
            Speech2Text).
        tokenizer: the tokenizer of the model, or a processor that has one; for sounds, a processor
            that has a feature_extractor, too.
        texts: any number of `str`; for anything else the result says what it is. For a model that
            hears, float samples [n] between -1 and 1, as many a second as it expects, or mappings
            with them as `array` and with their `sampling_rate`.
        journal: file that keeps what is finished, so that a run that was killed continues; None
            for none.
        memory_budget: bytes for states and temporaries of a batch; None for the budget that the
            model was converted with or, without one, for what is free.
        batch_size: texts of a batch, at most; None for what the memory holds. It must be given for
            models of which no formula for the memory is known.
        truncation: whether texts that are too long are cut, by the tokenizer, and sounds to what
            the model hears at once; else nothing is generated for them.
        seed: decides, with sampling, what is drawn for a text, together with its place.
        progress: whether a bar shows it.
        options: the options of `generate`.

    Returns:
        One result for each text, in their order. Where nothing is generated for a text, because it
        is none, empty or too long, or does not fit in memory alone, the result says why.

    Raises:
        OSError: if the journal cannot be read or written.
        TypeError: if `model`, `tokenizer` or `texts` is something else.
        ValueError: if an option is contradictory, or the journal is of another run.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"generate_many: expected texts in a list, got {type(texts).__name__}")
    for name, value in (("batch_size", batch_size), ("memory_budget", memory_budget)):
        if value is not None and value < 1:
            raise ValueError(f"generate_many: {name}: expected at least 1, got {value}")
    generator = TextGenerator(model, tokenizer, options, truncation=truncation, seed=seed)
    with ExitStack() as stack:
        run = _Run(generator)
        if journal is not None:
            opened = Journal(Path(journal), generator.settings())
            run.journal = stack.enter_context(closing(opened))
        results, waiting = run.recall(generator.read(text) for text in texts)
        bar = stack.enter_context(
            tqdm(total=len(results) + len(waiting), disable=not progress, unit="text")
        )
        bar.update(len(results))
        lengths = {place: len(tokens) for place, tokens in waiting.items()}
        for batch in generator.batches(lengths, batch_size, memory_budget):
            results |= run.generate({place: waiting[place] for place in batch})
            bar.update(len(batch))
        return [results[place] for place in range(len(results))]


class _Run:
    """A generation that keeps what is finished.

    Attributes:
        journal: the journal of finished texts, or None.
    """

    def __init__(self, generator: TextGenerator) -> None:
        self.journal: Journal | None = None
        self._generator = generator

    def recall(
        self, inputs: Iterable[list[int] | str]
    ) -> tuple[dict[int, Generated], dict[int, list[int]]]:
        """Returns what is known, and the tokens of the other texts, by place.

        Args:
            inputs: tokens, or the reason why nothing is generated.
        """
        results: dict[int, Generated] = {}
        waiting: dict[int, list[int]] = {}
        for place, tokens in enumerate(inputs):
            if isinstance(tokens, str):
                results[place] = Generated(reason=tokens)
                continue
            recorded = self._recorded(place, tokens)
            if recorded is None:
                waiting[place] = tokens
            else:
                results[place] = recorded
        return results, waiting

    def generate(self, rows: dict[int, list[int]]) -> dict[int, Generated]:
        """Generates for the tokens of some places."""
        found = self._generator.generate(rows)
        done = {place: result for place, result in found.items() if result.reason is None}
        if self.journal is not None and done:
            self.journal.add(
                [
                    (self._key(place, rows[place]), [result.tokens, result.scores])
                    for place, result in done.items()
                ]
            )
        return found

    def _recorded(self, place: int, tokens: list[int]) -> Generated | None:
        if self.journal is None:
            return None
        entry = self.journal.take(self._key(place, tokens))
        if entry is None:
            return None
        try:
            hypotheses, scores = _checked(entry)
        except ValueError as error:
            self.journal.damaged(entry.line, str(error))
            return None
        return self._generator.decoded(hypotheses, scores)

    def _key(self, place: int, tokens: list[int]) -> str:
        return digest([place, tokens] if self._generator.options.draws else tokens)


def _checked(entry: Entry) -> tuple[list[list[int]], list[float] | None]:
    """Returns tokens and scores of an entry.

    Raises:
        ValueError: if it is something else.
    """
    match entry.value:
        case [[_, *_] as hypotheses, scores] if all(
            isinstance(row, list) and all(type(token) is int for token in row) for row in hypotheses
        ) and (scores is None or isinstance(scores, list)):
            return hypotheses, scores
    raise ValueError("expected hypotheses")
