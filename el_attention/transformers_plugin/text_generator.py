"""One model, one tokenizer, one set of options: of texts or sounds to batches and hypotheses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin

from el_attention.robust.memory import is_out_of_memory, release
from el_attention.robust.random_numbers import seed_of
from el_attention.robust.splitting import in_parts
from el_attention.transformers_plugin.batches import Batches
from el_attention.transformers_plugin.families import family_of
from el_attention.transformers_plugin.inputs import Reader
from el_attention.transformers_plugin.options import Options
from el_attention.transformers_plugin.run_key import run_settings
from el_attention.transformers_plugin.sounds import Sounds
from el_attention.transformers_plugin.texts import Texts


@dataclass(frozen=True)
class Generated:
    """What was generated for one text or sound.

    Attributes:
        texts: decoded, without special tokens, one for each hypothesis, the best first; empty if
            nothing was generated.
        tokens: the tokens of each hypothesis, as `generate` returns them for the text alone, but
            for the prompt of a language model.
        scores: the scores of each hypothesis, in beam search with `output_scores=True`; else None.
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


class TextGenerator:
    """All that generation for texts, or sounds, depends on, but for these.

    A text or sound is known by its place among all texts of a run, from 0.

    Attributes:
        options: the options of `generate`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        options: Mapping[str, Any],
        *,
        truncation: bool = False,
        seed: int = 0,
    ) -> None:
        """Takes what `generate_many` takes; see there.

        Raises:
            TypeError: if `model` or `tokenizer` is something else.
            ValueError: if an option is contradictory, or the model is in training.
        """
        if not (isinstance(model, PreTrainedModel) and isinstance(model, GenerationMixin)):
            raise TypeError(f"generate_many: expected a model that generates, got {_kind(model)}")
        if model.main_input_name not in ("input_ids", "input_features"):
            raise TypeError(
                f"generate_many: expected a model that reads tokens or hears, got {_kind(model)}, "
                f"which reads {model.main_input_name}"
            )
        if model.training:
            raise ValueError("generate_many: expected a model in evaluation mode: model.eval()")
        self._extractor = None
        if model.main_input_name == "input_features":
            self._extractor = getattr(tokenizer, "feature_extractor", None)
            if not callable(self._extractor):
                raise TypeError(
                    "generate_many: expected a processor with a feature_extractor, got "
                    f"{_kind(tokenizer)}"
                )
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not (callable(tokenizer) and hasattr(tokenizer, "decode")):
            raise TypeError(f"generate_many: expected a tokenizer, got {_kind(tokenizer)}")
        self.options = Options(model, options)
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self._reader: Reader
        if self._extractor is None:
            self._reader = Texts(model, tokenizer, self.options, truncation)
        else:
            self._reader = Sounds(model, family_of(model), self._extractor, truncation)

    def settings(self) -> dict[str, str]:
        """Describes what the results for all texts depend on, see `run_settings`.

        Raises:
            ValueError: if there is something that cannot be told apart in another run.
        """
        return run_settings(
            self._model, self._tokenizer, self._extractor, self.options.given, self._seed
        )

    def read(self, text: object) -> Any:
        """Returns a text as tokens or a `Sound`, or in a `str` why nothing is generated for it."""
        return self._reader.read(text)

    def batches(
        self, lengths: Mapping[int, int], batch_size: int | None, memory_budget: int | None
    ) -> Iterator[list[int]]:
        """Yields the places of texts that are generated together, the longest texts first.

        Args:
            lengths: tokens of each text, by its place.
            batch_size: texts of a batch, at most; None for what the memory holds.
            memory_budget: bytes; None for the budget that the model was converted with or, without
                one, for what is free.

        Raises:
            ValueError: if no formula for the memory is known, and no `batch_size`.
        """
        states = self._reader.states
        return Batches(self._model, self.options, batch_size, memory_budget, states).of(lengths)

    def generate(self, rows: Mapping[int, Any]) -> dict[int, Generated]:
        """Generates for a batch, or for halves of it where it does not fit.

        Args:
            rows: tokens of each text, by its place.

        Returns:
            A result for each text, by its place; where memory does not suffice for a text alone,
            it says so.
        """
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

        longest = self._reader.states(max(map(len, rows.values())))
        size = f"texts of {longest} tokens, beam {self.options.beam}"
        return dict(zip(places, in_parts(work, len(places), size, lambda: None), strict=True))

    def decoded(
        self, hypotheses: Sequence[Sequence[int]], scores: Sequence[float] | None
    ) -> Generated:
        """Returns the result of a text, of the tokens and scores of its hypotheses."""
        return Generated(
            texts=tuple(self._tokenizer.decode(x, skip_special_tokens=True) for x in hypotheses),
            tokens=tuple(map(tuple, hypotheses)),
            scores=None if scores is None else tuple(scores),
        )

    def _attempt(self, rows: dict[int, Any]) -> list[Generated]:
        arguments = self._reader.together(list(rows.values()))
        is_continued = not self._model.config.is_encoder_decoder
        prompt = arguments["input_ids"].size(1) if is_continued else 0
        with ExitStack() as stack:
            if self.options.draws:
                (place,) = rows
                devices = [self._model.device] if self._model.device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices))
                torch.manual_seed(seed_of(self._seed, place))
            output = self._model.generate(
                **arguments,
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
            hypotheses = [self._cut(sequence, prompt) for sequence in sequences[own]]
            results.append(self.decoded(hypotheses, None if values is None else values[own]))
        return results

    def _cut(self, sequence: list[int], prompt: int) -> list[int]:
        """Cuts the padding behind a hypothesis, and the prompt of a language model."""
        if self.options.is_whisper:  # which has cut prompts and ends, but pads what it returns
            length = len(sequence)
            while length and sequence[length - 1] == self.options.padding:
                length -= 1
            return sequence[:length]
        begin = self.options.decoder_prompt
        if not self._model.config.is_encoder_decoder:
            sequence, begin = sequence[prompt:], 0
        ends = (i for i in range(begin, len(sequence)) if sequence[i] in self.options.ends)
        return sequence[: next(ends, len(sequence)) + 1]


def _kind(thing: object) -> str:
    return type(thing).__name__
