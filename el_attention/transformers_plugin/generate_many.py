"""Generation for any number of texts: full batches, no text lost, continued after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin

from el_attention.robust.description import digest
from el_attention.robust.journal import Entry, Journal
from el_attention.robust.memory import is_out_of_memory, release
from el_attention.robust.splitting import in_parts
from el_attention.transformers_plugin.batches import Batches
from el_attention.transformers_plugin.options import Options
from el_attention.transformers_plugin.run_key import run_settings
from el_attention.transformers_plugin.texts import Reader


@dataclass(frozen=True)
class Generated:
    """What was generated for one text.

    Attributes:
        texts: decoded, without special tokens, one for each hypothesis, the best first; empty if
            nothing was generated.
        tokens: of each hypothesis, as `generate` returns them for the text alone, but for the
            prompt of a language model.
        scores: of each hypothesis, in beam search with `output_scores=True`; else None.
        reason: why nothing was generated, or None.
    """

    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    scores: tuple[float, ...] | None = None
    reason: str | None = None

    @property
    def text(self) -> str | None:
        """The best hypothesis, or None if nothing was generated."""
        return self.texts[0] if self.texts else None


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
    """Generates for many texts with a model of Transformers, converted or not.

    The texts are sorted by length and put into batches that fill the memory; a batch that does not
    fit is halved. The hypotheses of a text are those of `model.generate` for it alone: where an
    option would make them depend on the padding, only texts of one length share a batch, and where
    it would make them depend on the other texts, a text has a batch of its own; the log says so.

    Args:
        model: of Transformers, in evaluation mode, which reads tokens.
        tokenizer: of the model, or a processor that has one.
        texts: any number of `str`; for anything else the result says what it is.
        journal: file that keeps what is finished, so that a run that was killed continues; None
            for none.
        memory_budget: bytes for states and temporaries of a batch; None for the budget that the
            model was converted with or, without one, for what is free.
        batch_size: texts of a batch, at most; None for what the memory holds. It must be given for
            models of which no formula for the memory is known.
        truncation: whether texts that are too long are cut, by the tokenizer; else nothing is
            generated for them.
        seed: with sampling, decides together with the place of a text what is drawn for it.
        progress: whether a bar shows it.
        options: of `generate`.

    Returns:
        One result for each text, in their order. Where nothing is generated for a text, because it
        is none, empty or too long, or does not fit in memory alone, the result says why.

    Raises:
        OSError: if the journal cannot be read or written.
        TypeError: if `model`, `tokenizer` or `texts` is something else.
        ValueError: if an option is contradictory, or the journal is of another run.
    """
    if not (isinstance(model, PreTrainedModel) and isinstance(model, GenerationMixin)):
        raise TypeError(f"generate_many: expected a model that generates, got {_kind(model)}")
    if model.main_input_name != "input_ids":
        raise TypeError(
            f"generate_many: expected a model that reads tokens, got {_kind(model)}, which reads "
            f"{model.main_input_name}"
        )
    if model.training:
        raise ValueError("generate_many: expected a model in evaluation mode: model.eval()")
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"generate_many: expected texts in a list, got {_kind(texts)}")
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if not (callable(tokenizer) and hasattr(tokenizer, "decode")):
        raise TypeError(f"generate_many: expected a tokenizer, got {_kind(tokenizer)}")
    for name, value in (("batch_size", batch_size), ("memory_budget", memory_budget)):
        if value is not None and value < 1:
            raise ValueError(f"generate_many: {name}: expected at least 1, got {value}")
    with ExitStack() as stack:
        run = _Run(model, tokenizer, Options(model, options), seed)
        if journal is not None:
            settings = run_settings(model, tokenizer, options, seed)
            run.journal = stack.enter_context(closing(Journal(Path(journal), settings)))
        reader = Reader(model, tokenizer, run.options, truncation)
        batches = Batches(model, run.options, batch_size, memory_budget)
        inputs = [reader.read(text) for text in texts]
        bar = stack.enter_context(tqdm(total=len(inputs), disable=not progress, unit="text"))
        return run.generate(inputs, batches, bar)


class _Run:
    """All that a run needs and changes.

    Attributes:
        options: of `generate`.
        journal: of finished texts, or None.
    """

    def __init__(self, model: Any, tokenizer: Any, options: Options, seed: int) -> None:
        self.options = options
        self.journal: Journal | None = None
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        known = (model.config.pad_token_id, getattr(tokenizer, "pad_token_id", None), 0)
        self._padding = next(token for token in known if token is not None)

    def generate(
        self, inputs: Sequence[list[int] | str], batches: Batches, bar: Any
    ) -> list[Generated]:
        """Generates for tokens; text in their place is the reason why nothing is generated."""
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
        bar.update(len(results))
        for batch in batches.of({place: len(tokens) for place, tokens in waiting.items()}):
            results |= self._batch({place: waiting[place] for place in batch})
            bar.update(len(batch))
        return [results[place] for place in range(len(inputs))]

    def _batch(self, rows: dict[int, list[int]]) -> dict[int, Generated]:
        """Generates for the tokens of some places."""
        places = list(rows)

        def work(part: range) -> list[Generated]:
            try:
                return self._attempt({places[index]: rows[places[index]] for index in part})
            except Exception as error:
                if len(part) > 1 or not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            # Only here: before, the error's traceback held the tensors of the attempt.
            release()
            return [Generated(reason=f"out of memory with this text alone: {reason}")]

        longest = max(map(len, rows.values()))
        size = f"texts of {longest} tokens, beam {self.options.beam}"
        found = dict(zip(places, in_parts(work, len(places), size, lambda: None), strict=True))
        done = {place: result for place, result in found.items() if result.reason is None}
        if self.journal is not None and done:
            self.journal.add(
                [
                    (self._key(place, rows[place]), [result.tokens, result.scores])
                    for place, result in done.items()
                ]
            )
        return found

    def _attempt(self, rows: dict[int, list[int]]) -> list[Generated]:
        tokens, mask = self._padded(list(rows.values()))
        with ExitStack() as stack:
            if self.options.draws:
                (place,) = rows
                devices = [self._model.device] if self._model.device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices))
                torch.manual_seed(seed_of(self._seed, place))
            output = self._model.generate(
                input_ids=tokens,
                attention_mask=mask,
                **{**self.options.given, "return_dict_in_generate": self.options.keeps_scores},
            )
        values = None
        if self.options.keeps_scores:
            scores, output = output.get("sequences_scores"), output.sequences
            values = None if scores is None else scores.tolist()
        sequences = output.tolist()
        each = len(sequences) // len(rows)
        results = []
        for first in range(0, len(sequences), each):
            own = slice(first, first + each)
            hypotheses = [self._cut(sequence, tokens.size(1)) for sequence in sequences[own]]
            results.append(self._decoded(hypotheses, None if values is None else values[own]))
        return results

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Returns tokens and the mask of those that are no padding, int64 [texts, tokens]."""
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self._padding)
        mask = torch.zeros_like(tokens)
        for index, row in enumerate(rows):
            left = 0 if self._model.config.is_encoder_decoder else longest - len(row)
            tokens[index, left : left + len(row)] = torch.tensor(row)
            mask[index, left : left + len(row)] = 1
        return tokens.to(self._model.device), mask.to(self._model.device)

    def _cut(self, sequence: list[int], prompt: int) -> list[int]:
        """Cuts the padding behind a hypothesis, and the prompt of a language model."""
        begin = self.options.decoder_prompt
        if not self._model.config.is_encoder_decoder:
            sequence, begin = sequence[prompt:], 0
        ends = (i for i in range(begin, len(sequence)) if sequence[i] in self.options.ends)
        return sequence[: next(ends, len(sequence)) + 1]

    def _decoded(
        self, hypotheses: Sequence[Sequence[int]], scores: Sequence[float] | None
    ) -> Generated:
        return Generated(
            texts=tuple(self._tokenizer.decode(x, skip_special_tokens=True) for x in hypotheses),
            tokens=tuple(map(tuple, hypotheses)),
            scores=None if scores is None else tuple(scores),
        )

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
        return self._decoded(hypotheses, scores)

    def _key(self, place: int, tokens: list[int]) -> str:
        return digest([place, tokens] if self.options.draws else tokens)


def seed_of(seed: int, place: int) -> int:
    """Returns the seed of what is drawn for a text.

    Args:
        seed: of the run.
        place: of the text among all, from 0.
    """
    return int.from_bytes(
        hashlib.blake2b(f"{seed} {place}".encode(), digest_size=7).digest(), "big"
    )


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


def _kind(thing: object) -> str:
    return type(thing).__name__
