"""Options of a generation that fairseq's own programs do not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from fairseq.data import Dictionary

from el_attention.fairseq_plugin.options import option_of_run


def set_more_options(generator: Any, task: object, options: object) -> None:
    """Gives a generator what a task's options, or those of a hub's call, say beyond fairseq's.

    Args:
        generator: a converted `SequenceGenerator`, or something else that a task has built.
        task: an `ELTask`.
        options: fairseq's generation configuration; a hub has put its arguments into it.

    Raises:
        ValueError: if an option would have no effect, or its value is not one.
    """
    from fairseq.sequence_generator import SequenceGenerator

    tokens = option_of_run(task, options, "tokens_to_suppress")
    weights = option_of_run(task, options, "ensemble_weights")
    after_prefix = option_of_run(task, options, "no_repeat_ngram_after_prefix")
    if not isinstance(generator, SequenceGenerator):
        for name, value in {"tokens-to-suppress": tokens, "ensemble-weights": weights}.items():
            if value is not None:
                raise ValueError(
                    f"--{name}: expected none, because no hypotheses are searched by a "
                    f"{type(generator).__name__}, got {value!r}"
                )
        return
    made: Any = generator
    if tokens is not None:
        suppressed = suppressed_tokens(tokens, made.tgt_dict, made.eos)
        before = made.token_indices_to_suppress
        if before is not None:
            suppressed = sorted({*suppressed, *before.tolist()})
        made.token_indices_to_suppress = torch.tensor(suppressed) if suppressed else None
    if weights is not None:
        made.model.weights = ensemble_weights(weights, len(made.model.models))
    if after_prefix:
        if made.repeat_ngram_blocker is None:
            raise ValueError(
                "--no-repeat-ngram-after-prefix: expected --no-repeat-ngram-size, too, got none"
            )
        made.el_ngrams_after_prefix = True


def suppressed_tokens(given: str | Sequence[str], words: Dictionary, eos: int) -> list[int]:
    """Reads tokens that are to be in no hypothesis.

    Args:
        given: tokens, as one text with spaces between them or one by one.
        words: the target dictionary.
        eos: what ends a hypothesis.

    Raises:
        ValueError: if one is not in the dictionary, or ends every hypothesis.
    """
    found = []
    for token in given.split() if isinstance(given, str) else given:
        if token not in words:
            raise ValueError(
                f"--tokens-to-suppress: expected tokens of the target dictionary, got {token!r}"
            )
        if words.index(token) == eos:
            raise ValueError(
                f"--tokens-to-suppress: expected tokens that a hypothesis can do without, got "
                f"{token!r}, which ends it"
            )
        found.append(words.index(token))
    return found


def ensemble_weights(given: str | Sequence[float], models: int) -> list[float] | None:
    """Reads the weights of an ensemble.

    Args:
        given: numbers, as one text with commas between them or one by one.
        models: number of models.

    Returns:
        Weights of sum 1, or None if they are equal.

    Raises:
        ValueError: if there is not one positive number for each model.
    """
    try:
        values = [*map(float, given.split(",") if isinstance(given, str) else given)]
        total = math.fsum(value / max(values) for value in values)
        weights = [value / max(values) / total for value in values]
    except (TypeError, ValueError, ZeroDivisionError):
        weights = []
    if len(weights) != models or not all(weight > 0 for weight in weights):
        raise ValueError(
            f"--ensemble-weights: expected a positive number for each of {models} models, with "
            f"commas between them, got {given!r}"
        )
    return None if len({*values}) == 1 else weights
