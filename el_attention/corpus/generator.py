"""A callable over blocks of columns, for Ray Data, datasets and Spark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from el_attention.corpus.engine import Answer, Engine, Recipe


class Generator:
    """Adds the columns `hypotheses` and `reason`, and `scores` on request, to blocks of rows.

    It can be pickled: the model is loaded where it is first called, once in a process, and is never
    part of the copy.  What it returns for a block depends on that block alone, so that a block that
    is tried again has the same results.
    """

    def __init__(
        self, recipe: Recipe, text_column: str = "text", memory_budget: int | None = None
    ) -> None:
        """Takes what all blocks have in common.

        Args:
            recipe: the recipe of the model.
            text_column: name of the column of texts.
            memory_budget: bytes for states and temporaries of a batch; None for what is free when
                the model is loaded.
        """
        self._recipe, self._column, self._budget = recipe, text_column, memory_budget
        self._ready: tuple[Engine, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ready": None}

    def __call__(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """Generates for a block.

        Args:
            block: columns by name; that of texts holds `str`, for anything else the reason says
                what it is.

        Returns:
            The columns of `block` and, for each row, `hypotheses`, the best first, `scores`, with
            fairseq or the option `output_scores`, and `reason`, which is empty if there are
            hypotheses.

        Raises:
            KeyError: if there is no column of texts.
            ImportError, TypeError, ValueError: if the model does not load or generate.
        """
        if self._column not in block:
            raise KeyError(f"expected a column {self._column!r}, there are {[*block]}")
        texts = list(block[self._column])
        engine, budget = self._loaded()
        # By content, so that what is drawn for a text does not depend on its place in a block.
        keys = [_key(text) for text in texts]
        batches, reasons = engine.fix(dict(zip(keys, texts, strict=True)), budget)
        answers = {key: Answer([], None, reason) for key, reason in reasons.items()}
        for batch in batches:
            answers |= engine.generate(batch)
        rows = [answers[key] for key in keys]
        # No column of None alone, for which no framework knows a type.
        new: dict[str, Any] = {"hypotheses": [row.hypotheses for row in rows]}
        if self._recipe.has_scores:
            new["scores"] = [row.scores or [] for row in rows]
        return {**block, **new, "reason": [row.reason or "" for row in rows]}

    def _loaded(self) -> tuple[Engine, int]:
        """Returns the engine of this process, and the bytes for a batch."""
        if self._ready is None:
            engine = Engine(self._recipe)
            budget = engine.share(1) if self._budget is None else self._budget
            engine.limit(budget)
            self._ready = engine, budget
        return self._ready


def _key(text: object) -> int:
    described = f"{type(text).__name__} {text!r}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(described, digest_size=8).digest(), "big")
