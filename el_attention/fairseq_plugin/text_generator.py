"""One ensemble, one set of options: of texts or sentences to batches and hypotheses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import utils
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.bart import BARTModel
from fairseq.tasks.denoising import DenoisingTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from torch import Tensor

from el_attention.fairseq_plugin.batching import BatchSizes
from el_attention.fairseq_plugin.conversion import convert_model, free_models, unsupported
from el_attention.fairseq_plugin.load import load
from el_attention.fairseq_plugin.run_key import run_settings
from el_attention.fairseq_plugin.unknown_words import language_tokens
from el_attention.plain import original
from el_attention.robust.batches import by_length
from el_attention.robust.description import as_text, digest
from el_attention.robust.memory import is_out_of_memory
from el_attention.robust.random_numbers import seed_of

# What any model can read, if only as an unknown token.
_TRIAL = "a"


@dataclass(frozen=True)
class Generated:
    """What was generated for one text or sentence.

    Attributes:
        texts: decoded, one for each hypothesis, the best first; empty if nothing was generated.
        scores: the scores of each hypothesis, in natural logarithms.
        reason: why nothing was generated, or None.
    """

    texts: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None
    reason: str | None = None


class TextGenerator:
    """All that generation for texts depends on, but for these; or for sentences of a data set.

    Texts have the hypotheses of fairseq's hub interface; sentences are known by their numbers in
    the data set, and have the hypotheses of fairseq-generate. Limits of length that depend on the
    source count that of the sentence alone, as with --batch-by-memory.

    Attributes:
        device: the device of the models.
    """

    def __init__(
        self,
        checkpoint: str,
        options: Mapping[str, Any],
        data: str | None,
        split: str | None,
        *,
        device: str,
        dtype: str | None = None,
        plan: str = "auto",
        truncation: bool = False,
        seed: int = 0,
    ) -> None:
        """Loads the models.

        Args:
            checkpoint: its file, or those of an ensemble with colons between them.
            options: options of fairseq-generate by name.
            data: folder of the dictionaries; None for that of the checkpoint.
            split: part of the data set in `data` whose sentences are generated for; None for texts.
            device: the device of the models.
            dtype: the dtype of the models, such as "float16"; None for float32.
            plan: one of `PLAN_CHOICES`.
            truncation: whether texts that are too long are cut.
            seed: decides, with sampling, what is drawn for a text, together with its place.

        Raises:
            ValueError: if the models or the data set do not load, or an option is none.
        """
        self._split, self._plan, self._seed, self._truncation = split, plan, seed, truncation
        loaded = load(checkpoint, options, data, device, dtype, plan)
        self._cfg, self._task, self._models = loaded.cfg, loaded.task, loaded.models
        self._options = self._cfg.generation
        if self._options.nbest < 1:
            raise ValueError(f"option nbest: expected at least 1, got {self._options.nbest}")
        if split is not None and truncation:
            raise ValueError(
                "truncation: expected none of a data set, whose task may have truncate_source"
            )
        if split is None and self._options.prefix_size:
            raise ValueError("option prefix_size: expected none, because texts have no targets")
        self.device = next(self._models[0].parameters()).device
        self._extra = {
            "lm_model": loaded.language_model,
            "lm_weight": self._options.lm_weight,
        }
        try:
            self._hub = GeneratorHubInterface(self._cfg, self._task, self._models)
            self._generator = self._task.build_generator(
                self._models, self._options, extra_gen_cls_kwargs=self._extra
            )
        except Exception as error:  # of as many kinds as there are tasks
            raise ValueError(
                f"model {checkpoint}: cannot generate with the options {dict(options)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        self._data_set: Any = None if split is None else self._sentences(checkpoint, split)
        # What says nothing about a text.
        words = self._task.source_dictionary
        self._silent = {words.pad(), words.bos(), words.eos(), *language_tokens(self._task)}
        # What BART's hub interface puts before a source, and makes every hypothesis begin with.
        is_bart = (
            isinstance(original(self._models[0]), BARTModel)
            and isinstance(self._task, (TranslationTask, DenoisingTask))
            and not isinstance(self._task, TranslationFromPretrainedBARTTask)
        )
        self._begin = words.bos() if is_bart else None
        self._continues = not hasattr(self._models[0], "encoder")
        limits = self._hub.max_positions
        self._limit = int(limits[0] if isinstance(limits, tuple) else limits)

    @property
    def sentences(self) -> int:
        """The number of sentences of the data set."""
        return len(self._data_set)

    @property
    def weights(self) -> int:
        """The bytes of all weights."""
        models = [*self._models, self._extra["lm_model"]]
        return sum(t.nbytes for m in models if m is not None for t in m.state_dict().values())

    def settings(self) -> dict[str, str]:
        """Describes what the results for all texts depend on, see `run_settings`.

        Raises:
            ValueError: if there is something that cannot be told apart in another run.
        """
        settings = run_settings(self._task, self._models, self._options, self._extra, self._cfg)
        for kind in ("bpe", "tokenizer"):
            for name, value in dict(getattr(self._cfg, kind) or {}).items():
                if isinstance(value, str) and Path(value).is_file():
                    content = digest(Path(value).read_bytes())
                    settings[f"{kind}.{name}"] = as_text(name, content)
        return {**settings, "split": str(self._split), "seed": str(self._seed)}

    def limit(self, memory_budget: int) -> None:
        """Sets the bytes for states and temporaries of a batch, for the choice of plans."""
        for model in self._models:
            convert_model(original(model), self._plan, memory_budget)
        free_models(self._models)

    def trial(self) -> str | None:
        """Generates once, and returns why there is no hypothesis, or None."""
        (result,) = self._generate(self._of_texts([self._tokens(_TRIAL)]))
        return result.reason

    def read(self, thing: Any) -> list[int] | str:
        """Returns the tokens of a text or sentence, or why nothing is generated for it."""
        if self._data_set is None and not isinstance(thing, str):
            return f"expected a text, got {type(thing).__name__}"
        try:
            tokens = [] if self._data_set is not None else self._tokens(thing)
            batch = self._of_texts([tokens]) if tokens else self._of_sentences([thing])
        except Exception as error:  # as many kinds as there are tokenizers and damaged files
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise
            return f"it cannot be read: {type(error).__name__}: {error}"
        (source,) = batch.sample["net_input"]["src_tokens"].tolist()
        if not set(source) - self._silent:
            return "it is empty: there is nothing in it"
        excess = len(source) - self._limit
        if excess > 0 and self._truncation and len(tokens) - excess > 1:
            return [*tokens[: len(tokens) - excess - 1], tokens[-1]]
        if excess > 0:
            return f"it is too long: {len(source)} tokens, the model reads {self._limit} at most"
        if self._continues and len(source) > self._last(len(source)):
            return (
                f"it is too long: {len(source)} tokens, which leave none to generate: hypotheses "
                f"begin with them and have {self._last(len(source))} at most"
            )
        return tokens or source

    def _last(self, length: int) -> int:
        """The tokens of a hypothesis before its end, for a source of some length."""
        generator = self._generator
        limit = int(generator.max_len_a * length + generator.max_len_b)
        return min(limit, generator.max_len - 1)

    def batches(
        self, lengths: Mapping[int, int], batch_size: int | None, memory_budget: int
    ) -> Iterator[list[int]]:
        """Yields the places of texts that are generated together, the longest texts first.

        Args:
            lengths: tokens of each text, by its place.
            batch_size: texts of a batch, at most; None for what the memory holds.
            memory_budget: bytes for states and temporaries.

        Raises:
            ValueError: if no formula for the memory is known, and no `batch_size`.
        """
        if self._draws:
            return by_length(lengths, lambda size, longest, length: False)
        if any(map(unsupported, self._models)) and batch_size is not None:
            return by_length(lengths, lambda size, longest, length: size < batch_size)
        sizes = BatchSizes(self._models, self._cfg, self._plan, memory_budget)
        most = len(lengths) if batch_size is None else batch_size
        return by_length(
            lengths, lambda size, longest, length: size < min(most, sizes.largest(longest))
        )

    def generate(self, rows: Mapping[int, list[int]]) -> dict[int, Generated]:
        """Generates for a batch, or for halves of it where it does not fit.

        Args:
            rows: tokens of each text, by its place; of a sentence, the place is its number.

        Returns:
            A result for each text, by its place.

        Raises:
            MemoryError: if memory does not suffice for a single text.
        """
        places = list(rows)
        if self._data_set is None:
            batch = self._of_texts([*rows.values()])
        else:
            batch = self._of_sentences(places)
        with ExitStack() as stack:
            if self._draws:
                (place,) = places
                devices = [self.device] if self.device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices))
                torch.manual_seed(seed_of(self._seed, place))
            return dict(zip(places, self._generate(batch), strict=True))

    @property
    def _draws(self) -> bool:
        return bool(self._options.sampling or self._options.retain_dropout)

    def _sentences(self, checkpoint: str, split: str) -> Any:
        try:
            self._task.load_dataset(split, task_cfg=self._cfg.task)
        except Exception as error:  # of as many kinds as there are files that are not as expected
            raise ValueError(
                f"split {split} of {self._cfg.task.data}: cannot be loaded for the task of "
                f"{checkpoint}: {type(error).__name__}: {error}"
            ) from error
        return self._task.dataset(split)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._hub.encode(text).tolist()
        return tokens if self._begin is None else [self._begin, *tokens]

    def _of_texts(self, rows: Sequence[Sequence[int]]) -> _Batch:
        lengths = torch.tensor([len(row) for row in rows])
        dataset = self._task.build_dataset_for_inference([*map(torch.tensor, rows)], lengths)
        if len(dataset) != len(rows):
            raise ValueError(f"expected {len(rows)} sentences, the task makes {len(dataset)}")
        prefix = None if self._begin is None else torch.full((len(rows), 1), self._begin)
        return _batch(dataset, range(len(rows)), prefix)

    def _of_sentences(self, numbers: Sequence[int]) -> _Batch:
        batch = _batch(self._data_set, numbers)
        if not self._options.prefix_size:
            return batch
        return batch._replace(prefix=batch.sample["target"][:, : self._options.prefix_size])

    def _generate(self, batch: _Batch) -> list[Generated]:
        """Returns a result for each text or sentence, in their order."""
        sample, prefix = utils.apply_to_sample(
            lambda tensor: tensor.to(self.device), [batch.sample, batch.prefix]
        )
        found = self._task.inference_step(
            self._generator, self._models, sample, prefix_tokens=prefix, constraints=None
        )
        return [self._decoded(found[row][: self._options.nbest]) for row in batch.order]

    def _decoded(self, hypotheses: Sequence[Mapping[str, Any]]) -> Generated:
        texts = []
        for hypothesis in hypotheses:
            text = self._task.target_dictionary.string(
                hypothesis["tokens"].int().cpu(),
                self._cfg.common_eval.post_process,
                extra_symbols_to_ignore=self._generator.symbols_to_strip_from_output,
            )
            texts.append(self._hub.detokenize(self._hub.remove_bpe(text)))
        return Generated(tuple(texts), tuple(float(x["score"]) for x in hypotheses))


class _Batch(NamedTuple):
    sample: dict[str, Any]
    prefix: Tensor | None
    order: list[int]  # the row of each text in `sample`


def _batch(dataset: Any, numbers: Sequence[int], prefix: Tensor | None = None) -> _Batch:
    """Makes a batch of some items of a data set, which may put them in another order."""
    sample = dataset.collater([dataset[number] for number in numbers])
    # Without the numbers, which diverse search would take for places in the batch.
    rows = {number: row for row, number in enumerate(sample.pop("id").tolist())}
    return _Batch(sample, prefix, [rows[number] for number in numbers])
