"""Loaded models, each through the public names of its framework's front end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

import el_attention

if TYPE_CHECKING:
    from el_attention.corpus.engine import Recipe

# What any model can read: generation for it tells options that are wrong from rows that are.
_TRIAL = "a"


class Model(Protocol):
    """A model that generates for texts, or for sentences of a data set by their numbers.

    Attributes:
        device: the device of the model.
        weights: the bytes of its weights.
    """

    @property
    def device(self) -> torch.device:
        """See there."""

    @property
    def weights(self) -> int:
        """See there."""

    @property
    def sentences(self) -> int:
        """The number of sentences of a data set."""

    def settings(self) -> dict[str, str]:
        """Describes what results depend on, but for the rows.

        Raises:
            ValueError: if there is something that cannot be told apart in another run.
        """

    def limit(self, memory_budget: int) -> None:
        """Sets the bytes for states and temporaries of a batch, for the choice of plans."""

    def trial(self) -> str | None:
        """Generates once, and returns why there is no hypothesis, or None."""

    def read(self, thing: object) -> Any:
        """Returns the tokens of a row or, in a `str`, why nothing is generated for it."""

    def batches(
        self, lengths: Mapping[int, int], batch_size: int | None, memory_budget: int
    ) -> Iterable[list[int]]:
        """Returns the places of rows that are generated together, by the length of each.

        Raises:
            ValueError: if no formula for the memory is known, and no `batch_size`.
        """

    def generate(self, rows: Mapping[int, Any]) -> Mapping[int, Any]:
        """Returns an object with `texts`, `scores` and `reason` for each row of a batch."""


def load(recipe: Recipe, device: str) -> Model:
    """Loads the model of a recipe.

    Raises:
        ImportError: if its framework is not there.
        TypeError: if the model is none that reads tokens and generates.
        ValueError: if the model does not load.
    """
    if recipe.is_of_fairseq:
        return _of_fairseq(recipe, device)
    return _OfTransformers(recipe, device)


class _OfTransformers:
    sentences = 0  # which no data set of theirs has

    def __init__(self, recipe: Recipe, device: str) -> None:
        from el_attention import transformers_plugin

        if recipe.data is not None or recipe.split is not None:
            raise ValueError(
                f"model {recipe.model}: expected texts and no data set, which checkpoints of "
                "fairseq, files that end in .pt, have"
            )
        self._plan, self._convert = recipe.plan, transformers_plugin.convert
        model, tokenizer = transformers_plugin.load(recipe.model, device, recipe.dtype)
        self._model = self._convert(model, recipe.plan)
        self._generator = transformers_plugin.TextGenerator(
            self._model, tokenizer, recipe.options, truncation=recipe.truncation, seed=recipe.seed
        )
        self.settings = self._generator.settings
        self.read, self.batches = self._generator.read, self._generator.batches
        self.generate = self._generator.generate

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    @property
    def weights(self) -> int:
        return sum(tensor.nbytes for tensor in self._model.state_dict().values())

    def limit(self, memory_budget: int) -> None:
        self._convert(self._model, self._plan, memory_budget, generation_only=True)

    def trial(self) -> str | None:
        tokens = self.read(_TRIAL)
        return None if isinstance(tokens, str) else self.generate({0: tokens})[0].reason


def _of_fairseq(recipe: Recipe, device: str) -> Model:
    if el_attention.fairseq_error is not None:
        raise ImportError(
            f"model {recipe.model}: a checkpoint of fairseq needs it: {el_attention.fairseq_error}"
        ) from el_attention.fairseq_error
    from el_attention import fairseq_plugin

    return fairseq_plugin.TextGenerator(
        recipe.model,
        recipe.options,
        recipe.data,
        recipe.split,
        device=device,
        dtype=recipe.dtype,
        plan=recipe.plan,
        truncation=recipe.truncation,
        seed=recipe.seed,
    )
