"""A loaded model that generates for rows, and what it is made of in any process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from el_attention.corpus.models import load
from el_attention.cost import FRAGMENTATION
from el_attention.robust.memory import free_bytes

logger = logging.getLogger(__name__)

_CHECKPOINT = ".pt"
# Rows of a batch, at most, unless a number is asked for. Beyond it a GPU is no faster, and a window
# would have too few batches for the lengths in each to be similar.
LARGEST_BATCH = 512

# Tokens of rows that are generated together, by place.
Batch = dict[int, list[int]]


class Answer(NamedTuple):
    """What was generated for a row (JSON).

    Attributes:
        hypotheses: text of each, the best first.
        scores: the scores of each, or None.
        reason: why there is none, or None.
    """

    hypotheses: list[str]
    scores: list[float] | None
    reason: str | None


@dataclass(frozen=True)
class Recipe:
    """What an engine is made of; it can be pickled.

    Attributes:
        model: folder of a model of Transformers, or name that it knows; or the file of a checkpoint
            of fairseq, which ends in .pt, or those of an ensemble with colons between them.
        options: the options of `generate` or, with fairseq, of fairseq-generate.
        device: "cpu", "cuda" or one such as "cuda:1"; None for a GPU if there is one.
        dtype: the dtype of the model, such as "float32"; None for that of its weights or, with
            fairseq, float32.
        plan: the plan of its attention: "auto", "expanded-query" or "shared-projection".
        batch_size: rows of a batch, at most; None for what the memory holds, up to 512.
        truncation: whether texts that are too long are cut; else nothing is generated for them.
        seed: with sampling, decides together with the place of a row what is drawn for it.
        data: with fairseq, folder of the dictionaries; None for that of the checkpoint.
        split: part of the data set in `data`, whose sentences the rows are; None if they are texts.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    plan: str = "auto"
    batch_size: int | None = None
    truncation: bool = False
    seed: int = 0
    data: str | None = None
    split: str | None = None

    @property
    def is_of_fairseq(self) -> bool:
        """Whether the model is a checkpoint of fairseq."""
        return self.model.endswith(_CHECKPOINT)

    @property
    def has_scores(self) -> bool:
        """Whether there are scores; else they are None."""
        return self.is_of_fairseq or bool(self.options.get("output_scores"))

    def device_of(self, worker: int) -> str:
        """Returns the device of one of several processes, which take the GPUs in turns.

        Raises:
            ValueError: if it is to be a GPU, and there is none.
        """
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device != "cuda":
            return device
        if not torch.cuda.is_available():
            raise ValueError(f"device cuda: torch {torch.__version__} finds no GPU that it can use")
        return f"cuda:{worker % torch.cuda.device_count()}"

    def sharing(self, workers: int) -> int:
        """Returns how many of some processes share one device, at most."""
        return -(-workers // len({self.device_of(worker) for worker in range(workers)}))


class Engine:
    """A loaded model."""

    def __init__(self, recipe: Recipe, worker: int = 0) -> None:
        """Loads the model, and generates once.

        Args:
            recipe: see there.
            worker: number of this process among several.

        Raises:
            ImportError: if the framework of the model is not there.
            TypeError: if the model is none that reads tokens and generates.
            ValueError: if the model does not load, or does not generate with these options.
        """
        self._recipe = recipe
        self._model = load(recipe, recipe.device_of(worker))
        self._try()

    def sentences(self) -> int:
        """Returns the number of sentences of the data set of the recipe."""
        return self._model.sentences

    def settings(self) -> dict[str, str]:
        """Describes what results depend on, but for the rows.

        Raises:
            ValueError: if there is something that cannot be told apart in another run.
        """
        return {**self._model.settings(), "truncation": str(self._recipe.truncation)}

    def free(self) -> int:
        """Returns the bytes that are free on the device."""
        return free_bytes(self._model.device)

    def share(self, processes: int) -> int:
        """Returns the bytes that are free for each of some processes with this model."""
        free = self.free() * (1 - FRAGMENTATION) - (processes - 1) * self._model.weights
        return max(1, int(free / processes))

    def limit(self, memory_budget: int) -> None:
        """Sets the bytes for states and temporaries of a batch, and for the choice of plans."""
        self._model.limit(memory_budget)

    def fix(
        self, texts: Mapping[int, object], memory_budget: int
    ) -> tuple[list[Batch], dict[int, str]]:
        """Puts rows into batches, which depend on nothing but the arguments.

        Args:
            texts: the texts, or the numbers of sentences, by place.
            memory_budget: bytes for states and temporaries of a batch.

        Returns:
            The batches; and why nothing is generated for the other rows.

        Raises:
            ValueError: if no formula for the memory is known, and no batch size.
        """
        tokens, reasons = {}, {}
        for place, text in texts.items():
            read = self._model.read(text)
            if isinstance(read, str):
                reasons[place] = read
            else:
                tokens[place] = read
        lengths = {place: len(row) for place, row in tokens.items()}
        size = self._recipe.batch_size
        batches = self._model.batches(lengths, size, memory_budget)
        if size is None:
            batches = (part for batch in batches for part in _parts(batch))
        return [{place: tokens[place] for place in batch} for batch in batches], reasons

    def generate(self, batch: Batch) -> dict[int, Answer]:
        """Generates for a batch; a row that fails alone gets a reason.

        Raises:
            OSError: if the machine fails, as with a full disk, which is no fault of a row.
            RuntimeError: if the device does not work any more.
        """
        try:
            found = self._model.generate(batch)
        except OSError:
            raise
        except Exception as error:
            if "CUDA error" in str(error):
                raise  # all that follows in this process would fail, too
            reason = f"{type(error).__name__}: {error}"
        else:
            return {place: _answer(result) for place, result in found.items()}
        if len(batch) == 1:
            return dict.fromkeys(batch, Answer([], None, f"the model fails with it: {reason}"))
        logger.warning(f"a batch of {len(batch)} rows fails, each is tried alone; {reason}")
        answers: dict[int, Answer] = {}
        for place, tokens in batch.items():
            answers |= self.generate({place: tokens})
        return answers

    def _try(self) -> None:
        """Generates once, so that what is wrong with all rows is no fault of one.

        Raises:
            ValueError: if that fails.
        """
        try:
            reason = self._model.trial()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            raise ValueError(
                f"model {self._recipe.model}: cannot generate with the options "
                f"{dict(self._recipe.options)}: {reason}"
            )


def _parts(batch: list[int]) -> Iterator[list[int]]:
    """Cuts a batch into equal ones of rows that differ less in length, where it is large."""
    number = -(-len(batch) // LARGEST_BATCH)
    for part in range(number):
        yield batch[part * len(batch) // number : (part + 1) * len(batch) // number]


def _answer(result: Any) -> Answer:
    scores = None if result.scores is None else list(result.scores)
    return Answer(list(result.texts), scores, result.reason)
