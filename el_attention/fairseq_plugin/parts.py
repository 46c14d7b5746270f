"""Generates for some sentences of a batch as the whole batch would."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Number
from types import NoneType
from typing import Any, Protocol

import torch
from torch import Tensor

from el_attention.cost import PART_TOKENS

logger = logging.getLogger(__name__)

# What fairseq's data sets and tasks put into a batch with one row for each sentence.
PER_SENTENCE = (
    "src_tokens",
    "src_lengths",
    "prev_output_tokens",
    "src_lang_id",
    "tgt_lang_id",
    "id",
    "target",
    "sort_order",
    "prefix_tokens",
    "constraints",
)
# What fairseq puts there for training alone; no generation reads it.
UNREAD = ("alignments", "align_weights")

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

    Padding stays as it is, because the length limit of fairseq depends on it.  A batch that holds
    what `unsupported_parts` names is generated as a whole.

    Args:
        generator: the generator of the task.
        models: the models of the task.
        sample: the whole batch.
        arguments: the arguments of `generate` (prefix_tokens, constraints, bos_token).
        part: the sentences, at least one.

    Returns:
        The hypotheses of each sentence of `part`.
    """
    number = sentences_of(sample)
    if len(part) == number:
        return generator.generate(models, sample, **arguments)
    reason = unsupported_parts({**sample, **arguments}, number)
    if reason is not None:
        say_once(f"a batch is generated as a whole where a part would do: {reason}")
        results = generator.generate(models, sample, **arguments)
        return [results[sentence] for sentence in part]
    chosen = list(part)
    if getattr(generator, "match_source_len", False):
        # There the longest source bounds the hypotheses of the whole batch: it comes along.
        longest = int(sample["net_input"]["src_lengths"].argmax())
        chosen += [longest] if longest not in part else []
    index = torch.tensor(chosen, device=sample["net_input"]["src_tokens"].device)
    results = generator.generate(
        models, select(generator, sample, index), **rows_of(arguments, index)
    )
    return results[: len(part)]


def select(generator: Generator, sample: dict[str, Any], index: Tensor) -> dict[str, Any]:
    """Selects sentences, int64 [n], for a generator, from a sample that can be split."""
    if hasattr(getattr(generator, "search", None), "prefix_allowed_tokens_fn"):
        # The user's function is told each sentence's number in the whole batch.
        sample = {"id": torch.arange(sentences_of(sample)), **sample}
    else:
        # Diverse search takes numbers for positions in the batch, which they are without any.
        sample = {name: value for name, value in sample.items() if name != "id"}
    return rows_of(sample, index)


def without_padding(sample: dict[str, Any], pad: int) -> dict[str, Any]:
    """Returns a sample without the source positions at which all its sentences are padded."""
    tokens: Tensor = sample["net_input"]["src_tokens"]
    used = tokens.ne(pad).any(0)
    tokens = tokens[:, used] if used.any() else tokens[:, :1]
    return {**sample, "net_input": {**sample["net_input"], "src_tokens": tokens}}


def sentences_at_once(tokens: Tensor) -> int:
    """How many sentences to encode at a time: on a CPU few, which need less memory; else all.

    Args:
        tokens: int64 [sentences, length].
    """
    if tokens.device.type != "cpu":
        return len(tokens)
    return max(1, PART_TOKENS // max(1, tokens.size(1)))


def unsupported_parts(batch: Mapping[str, Any], number: int) -> str | None:
    """Returns why sentences cannot be selected from a batch, or None if they can.

    A tensor that happens to have `number` rows need not have one per sentence, and one that has
    the sentences on another axis would be left whole: only names say what a tensor holds.

    Args:
        batch: a sample, its net_input, or arguments of `generate`.
        number: the number of sentences in the batch.
    """
    for name, value in batch.items():
        if name == "net_input":
            reason = unsupported_parts(value, number)
            if reason is not None:
                return reason
        elif name in PER_SENTENCE:
            for tensor in _tensors(value):
                if not (isinstance(tensor, Tensor) and tensor.dim() and len(tensor) == number):
                    return f"{name}: expected a row for each of {number} sentences, {_got(tensor)}"
        elif name not in UNREAD and not _holds_no_sentences(value):
            return f"{name}: expected a name that is known ({', '.join(PER_SENTENCE)}), " + (
                f"{_got(value)}, which may hold sentences on any axis"
            )
    return None


def rows_of(batch: Mapping[str, Any], index: Tensor) -> dict[str, Any]:
    """Selects sentences from a batch for which `unsupported_parts` returns None.

    Args:
        batch: a sample, its net_input, or arguments of `generate`.
        index: int64 [n], the sentences.
    """
    return {
        name: rows_of(value, index)
        if name == "net_input"
        else _select(value, index)
        if name in PER_SENTENCE
        else value
        for name, value in batch.items()
    }


@cache
def say_once(line: str) -> None:
    """Logs a line, the first time that it is given."""
    logger.warning(line)


def _tensors(value: Any) -> Sequence[Any]:
    """What should be tensors in a value that is known: none, one, or several targets."""
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _select(value: Any, index: Tensor) -> Any:
    if isinstance(value, (list, tuple)):
        return [_select(item, index) for item in value]
    return None if value is None else value.index_select(0, index.to(value.device))


def _holds_no_sentences(value: Any) -> bool:
    return isinstance(value, (Number, str, NoneType)) or (
        isinstance(value, Tensor) and value.dim() == 0
    )


def _got(value: Any) -> str:
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return f"got a {type(value).__name__}{shape}"
