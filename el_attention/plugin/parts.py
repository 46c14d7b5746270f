"""Generates for some sentences of a batch as the whole batch would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from el_attention.cost import PART_TOKENS

Results = list[list[dict[str, Any]]]  # hypotheses of each sentence, the best first


class Generator(Protocol):
    """What tasks call: a `SequenceGenerator`, a `SequenceScorer`, or what stands before one."""

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Returns the hypotheses of every sentence of `sample`, in its order."""


def sentences_of(sample: Mapping[str, Any]) -> int:
    """The number of sentences in a batch."""
    return len(sample["net_input"]["src_tokens"])


def generate_part(
    generator: Generator,
    models: Any,
    sample: dict[str, Any],
    arguments: Mapping[str, Any],
    part: Sequence[int],
) -> Results:
    """Generates for some sentences; the hypotheses are those that the whole batch would get.

    Padding stays as it is, because the length limit of fairseq depends on it.

    Args:
        generator: of the task.
        models: of the task.
        sample: the whole batch, its tensors with one row per sentence.
        arguments: of `generate` (prefix_tokens, constraints, bos_token).
        part: the sentences, at least one.

    Returns:
        The hypotheses of each sentence of `part`.
    """
    number = sentences_of(sample)
    if len(part) == number:
        return generator.generate(models, sample, **arguments)
    if hasattr(getattr(generator, "search", None), "prefix_allowed_tokens_fn"):
        # The user's function is told each sentence's number in the whole batch.
        sample = {"id": torch.arange(number), **sample}
    else:
        # Diverse search takes numbers for positions in the batch, which they are without any.
        sample = {name: value for name, value in sample.items() if name != "id"}
    chosen = list(part)
    if getattr(generator, "match_source_len", False):
        # There the longest source bounds the hypotheses of the whole batch: it comes along.
        longest = int(sample["net_input"]["src_lengths"].argmax())
        chosen += [longest] if longest not in part else []
    index = torch.tensor(chosen, device=sample["net_input"]["src_tokens"].device)
    results = generator.generate(
        models, rows_of(sample, index, number), **rows_of(arguments, index, number)
    )
    return results[: len(part)]


def sentences_at_once(tokens: Tensor) -> int:
    """How many sentences to encode at a time: on a CPU few, which need less memory; else all.

    Args:
        tokens: int64 [sentences, length].
    """
    if tokens.device.type != "cpu":
        return len(tokens)
    return max(1, PART_TOKENS // max(1, tokens.size(1)))


def rows_of(value: Any, index: Tensor, number: int) -> Any:
    """Selects sentences in every tensor of a batch that has a row for each of `number`.

    Args:
        value: tensors, mappings and sequences of them, and what else a batch holds.
        index: int64 [n], the sentences.
        number: of sentences in the batch.
    """
    if isinstance(value, Tensor) and value.dim() and len(value) == number:
        return value.index_select(0, index.to(value.device))
    if isinstance(value, Mapping):
        return {key: rows_of(item, index, number) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rows_of(item, index, number) for item in value)
    return value
