"""The systems that are compared, all with one interface."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, Model
from el_attention.attention import ExpandedQuery, plans_of
from el_attention.cost import CPU, Memory, Workload, memory_of, narrow_weights
from el_attention.decoder import DecoderSpec, NarrowWeights
from el_attention.state import capacity

CONVERTED = "ctranslate2"  # folder

Hypotheses = list[list[tuple[list[int], float]]]


@dataclass(frozen=True)
class Outcome:
    """A generation.

    Attributes:
        seconds: that it took.
        first: seconds until the first step of the decoder was done; None if the system does not
            tell.
        hypotheses: tokens, without the end of sentence, and sum of their log-probabilities, of
            each hypothesis of each sentence, the best first.
    """

    seconds: float
    first: float | None
    hypotheses: Hypotheses


class _Clock:
    """Seconds since `start`."""

    def __init__(self) -> None:
        self.first: float | None = None
        self._start = 0.0

    def start(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def first_done(self) -> None:
        """Notes the time, when called for the first time."""
        if self.first is None:
            self.first = self.seconds()


@contextmanager
def _watched(ensemble: Any, length: int, tell: Callable[[], None]) -> Iterator[None]:
    """Calls `tell` when fairseq's ensemble is about to decode the token after `length` - 1."""
    forward_decoder = ensemble.forward_decoder

    def watched(tokens: Tensor, *args: Any) -> Any:
        if tokens.size(1) == length:
            tell()
        return forward_decoder(tokens, *args)

    ensemble.forward_decoder = watched
    try:
        yield
    finally:
        del ensemble.forward_decoder


class System(ABC):
    """A system with a model in it.

    Attributes:
        closing: steps that it takes to end the hypotheses after their last token.
    """

    closing = 0

    @abstractmethod
    def __init__(self, case: Case, folder: Path, **options: Any) -> None:
        """Reads the words of a case's model, if any, from a folder that `prepare` has seen."""

    @abstractmethod
    def load(self) -> None:
        """Loads the model."""

    @classmethod
    def unsupported(cls, model: Model) -> str | None:
        """Returns why the system cannot be measured here with a model, or None if it can."""
        return None if model.is_of_fairseq else f"it has no {model.name}"

    @classmethod
    def prepare(cls, model: Model, folder: Path) -> None:
        """Adds to a folder with a checkpoint of fairseq, if it has the model, what is read."""
        return None

    @abstractmethod
    def generate(self, case: Case, sources: Tensor) -> Outcome:
        """Generates for all sources at once.

        Args:
            case: whose `steps` the decoder is to take.
            sources: int64 [batch, source], see `weights.sources_of`.
        """

    def scored(self, case: Case, sources: Tensor) -> Hypotheses:
        """Generates as `generate` does; scores may take time."""
        return self.generate(case, sources).hypotheses

    def predicted(self, case: Case) -> Memory | None:
        """Returns the memory of a generation by formula; None if the system has no formula."""
        return None


class Fairseq(System):
    """Stock fairseq, or this plugin with one of its plans."""

    closing = 1  # fairseq scores the end of sentence, in a step of its own

    def __init__(
        self, case: Case, folder: Path, *, plan: str | None = None, weights: str | None = None
    ) -> None:
        """Reads the dictionaries; `plan` None is stock fairseq.

        Weights "wide" are float32 ones, also where 16 bits hold them exactly.
        """
        from fairseq import tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        from benchmarks.weights import CHECKPOINT, arguments

        settings = convert_namespace_to_omegaconf(arguments(case.model)).task
        settings.data = str(folder)
        self._task = tasks.setup_task(settings)
        self._checkpoint = str(folder / CHECKPOINT)
        self._beam = case.beam
        self._plan = plan
        self._is_wide = weights == "wide"
        self._generators: dict[tuple[int, int], Any] = {}

    def load(self) -> None:
        """Loads the checkpoint."""
        from fairseq import checkpoint_utils

        import el_attention  # noqa: F401  (lets torch load checkpoints of fairseq)

        (self._model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
            [self._checkpoint], task=self._task
        )
        # What fairseq-generate does to every model: no attention weights unless asked for.
        self._model.eval().prepare_for_inference_(
            Namespace(generation=Namespace(beam=self._beam), common_eval=Namespace())
        )

    def generate(self, case: Case, sources: Tensor) -> Outcome:
        """Generates; see `System.generate`."""
        prompt = 1 if case.model.sizes.encoder else case.source
        generator = self._generator(case.beam, prompt - 1 + case.steps - self.closing)
        clock = _Clock()
        lengths = torch.full((len(sources),), case.source)
        sample = {"net_input": {"src_tokens": sources, "src_lengths": lengths}}
        with ExitStack() as stack:
            if self._plan is None:
                # The plugin must not find a method that is not fairseq's.
                stack.enter_context(_watched(generator.model, prompt + 1, clock.first_done))
            clock.start()
            found = self._task.inference_step(generator, [self._model], sample)
            seconds = clock.seconds()
        kept = slice(prompt - 1, -1)
        hypotheses = [
            [(h["tokens"][kept].tolist(), float(h["positional_scores"][kept].sum())) for h in hypos]
            for hypos in found
        ]
        return Outcome(seconds, clock.first, hypotheses)

    def predicted(self, case: Case) -> Memory | None:
        """Returns the memory by the cost model, with the plans that are chosen."""
        if self._plan is None:
            return None
        from el_attention.attention import Lengths

        # Beams that share no ancestors, and rows that are reserved ahead.
        tokens = -(-capacity(case.steps * case.beam, case.beam) // case.beam)
        load = Workload("float32", case.batch, case.beam, case.source, tokens, tokens)
        choices = self._model.decoder.el_planner.choose_for(
            torch.float32,
            torch.device("cpu"),
            case.batch,
            case.beam,
            case.source,
            Lengths(least=case.steps, most=case.steps),
        )
        expanded = {
            kind: choice.plan.name == ExpandedQuery.name for kind, choice in choices.items()
        }
        memory = memory_of(case.model.sizes, plans_of(expanded, CPU), load)
        if case.model.numbers != "float32" and not self._is_wide:
            memory = replace(memory, weights=memory.weights + narrow_weights(case.model.sizes))
        return memory

    def _generator(self, beam: int, tokens: int) -> Any:
        if (beam, tokens) not in self._generators:
            import el_attention

            length = {"max_len_a": 0, "max_len_b": tokens, "min_len": tokens}
            generator = self._task.build_generator([self._model], Namespace(beam=beam, **length))
            if self._plan is not None:
                generator = el_attention.convert(generator, self._plan)
                if self._is_wide:
                    self._model.decoder.el_narrow = _Wide()
            self._generators[beam, tokens] = generator
        return self._generators[beam, tokens]


class _Wide(NarrowWeights):
    """None of them."""

    def added_to(self, spec: DecoderSpec) -> DecoderSpec:
        return spec


class HuggingFace(System):
    """Transformers, with its generic beam search, or this project's front end for it."""

    def __init__(self, case: Case, folder: Path, *, plan: str | None = None) -> None:
        """Notes where the weights are; `plan` None is stock Transformers."""
        self._source = case.model, folder
        self._plan = plan

    def load(self) -> None:
        """Loads the checkpoint into the model of Transformers that computes the same."""
        from benchmarks.huggingface import load

        self._model = load(*self._source)
        if self._plan is not None:
            import el_attention

            el_attention.convert(self._model, self._plan)

    @classmethod
    def unsupported(cls, model: Model) -> str | None:
        """Returns why the system cannot be measured here with a model, or None if it can."""
        return missing("transformers")

    def generate(self, case: Case, sources: Tensor) -> Outcome:
        """Generates; see `System.generate`."""
        clock = _Clock()
        clock.start()
        sequences = self._generate(case, sources)
        return Outcome(clock.seconds(), None, _by_sentence(case, sequences))

    def scored(self, case: Case, sources: Tensor) -> Hypotheses:
        """Generates with scores, which takes more passes over the logits."""
        scores = {"return_dict_in_generate": True, "output_scores": True}
        found = self._generate(case, sources, **scores)
        return _by_sentence(case, found.sequences, found.sequences_scores)

    def _generate(self, case: Case, sources: Tensor, **options: Any) -> Any:
        from transformers.generation import GenerationMixin

        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(sources)}
        if sources.is_floating_point():
            inputs = {"decoder_input_ids": torch.zeros(len(sources), 1, dtype=torch.int64)}
        # That of all models: Whisper's own prepares languages and tasks first.
        return GenerationMixin.generate(
            self._model,
            sources,
            **inputs,
            num_beams=case.beam,
            num_return_sequences=case.beam,
            max_new_tokens=case.steps,
            min_new_tokens=case.steps,
            length_penalty=0.0,  # all hypotheses are of one length
            do_sample=False,
            **options,
        )


def _by_sentence(case: Case, sequences: Tensor, scores: Tensor | None = None) -> Hypotheses:
    """Hypotheses of Transformers; without scores, of score 0."""
    rows = sequences[:, -case.steps :].tolist()
    sums = [0.0] * len(rows) if scores is None else scores.tolist()
    pairs = list(zip(rows, sums, strict=True))
    return [pairs[start : start + case.beam] for start in range(0, len(pairs), case.beam)]


class CTranslate2(System):
    """CTranslate2, converted by its own converters for fairseq and Transformers."""

    def __init__(self, case: Case, folder: Path, *, compute_type: str = "float32") -> None:
        """Makes the words, by which it is told the sources."""
        self._words = _words(case.model)
        self._translates = case.model.sizes.encoder is not None
        self._adds_end = case.model.is_of_fairseq
        self._folder = str(folder / CONVERTED)
        self._compute_type = compute_type

    def load(self) -> None:
        """Loads what `prepare` has written, words of its own included."""
        import ctranslate2

        kind = ctranslate2.Translator if self._translates else ctranslate2.Generator
        self._model = kind(
            self._folder,
            compute_type=self._compute_type,
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )

    @classmethod
    def unsupported(cls, model: Model) -> str | None:
        """Returns why the system cannot be measured here with a model, or None if it can."""
        if model.family == "whisper":
            return "its Whisper cannot be told how many tokens to generate"
        return missing("ctranslate2")

    @classmethod
    def prepare(cls, model: Model, folder: Path) -> None:
        """Converts the checkpoint; see `System.prepare`."""
        import ctranslate2

        if (folder / CONVERTED).exists():
            return
        if model.is_of_fairseq:
            import el_attention  # noqa: F401  (lets torch load checkpoints of fairseq)
            from benchmarks.weights import CHECKPOINT

            converter = ctranslate2.converters.FairseqConverter(
                str(folder / CHECKPOINT), str(folder)
            )
        else:
            from benchmarks.huggingface import save

            save(model, folder, _words(model))
            converter = ctranslate2.converters.TransformersConverter(str(folder))
        converter.convert(str(folder / CONVERTED))

    def generate(self, case: Case, sources: Tensor) -> Outcome:
        """Generates; see `System.generate`."""
        numbers = {word: number for number, word in enumerate(self._words)}
        words = [[self._words[number] for number in row] for row in sources.tolist()]
        options = {
            "beam_size": case.beam,
            "num_hypotheses": case.beam,
            "length_penalty": 0,  # all hypotheses are of one length
            "return_scores": True,
        }
        if case.model.sizes.encoder:
            words = [row[:-1] for row in words] if self._adds_end else words
            start = time.perf_counter()
            found = self._model.translate_batch(
                words, max_decoding_length=case.steps, min_decoding_length=case.steps, **options
            )
            seconds = time.perf_counter() - start
            tokens = [result.hypotheses for result in found]
        else:
            start = time.perf_counter()
            found = self._model.generate_batch(
                words,
                max_length=case.steps,
                min_length=case.steps,
                include_prompt_in_result=False,
                **options,
            )
            seconds = time.perf_counter() - start
            tokens = [result.sequences for result in found]
        hypotheses = [
            [
                ([numbers.get(word, -1) for word in row], score)
                for row, score in zip(rows, result.scores, strict=True)
            ]
            for rows, result in zip(tokens, found, strict=True)
        ]
        return Outcome(seconds, None, hypotheses)


# Name -> class, and options of its constructor beside case and folder.
SYSTEMS: dict[str, tuple[type[System], dict[str, str]]] = {
    "fairseq": (Fairseq, {}),
    "el-attention": (Fairseq, {"plan": "auto"}),
    "wide-weights": (Fairseq, {"plan": "auto", "weights": "wide"}),
    "expanded-query": (Fairseq, {"plan": "expanded-query"}),
    "shared-projection": (Fairseq, {"plan": "shared-projection"}),
    "huggingface": (HuggingFace, {}),
    "huggingface-el": (HuggingFace, {"plan": "auto"}),
    "ctranslate2": (CTranslate2, {}),
    "ctranslate2-int8": (CTranslate2, {"compute_type": "int8"}),
}

DEFAULT = ["fairseq", "el-attention", "huggingface", "huggingface-el", "ctranslate2"]


def _words(model: Model) -> list[str]:
    """A word for every token."""
    if not model.is_of_fairseq:
        return [f"word{number}" for number in range(model.sizes.vocabulary)]
    from benchmarks.weights import symbols_of

    symbols: list[str] = symbols_of(model).symbols
    return symbols


def missing(package: str) -> str | None:
    """Says that a package is not installed, or None."""
    found = util.find_spec(package) is not None
    return None if found else f"{package} is not installed; pip install 'el-attention[bench]'"
