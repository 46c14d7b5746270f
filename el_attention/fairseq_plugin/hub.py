"""fairseq's hub interfaces, whose arguments for each sentence follow it into its batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from fairseq.data.data_utils import collate_tokens
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.bart import BARTHubInterface
from torch import Tensor

from el_attention.fairseq_plugin.parts import Results
from el_attention.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.hub_utils import GeneratorHubInterface as _Base
else:
    _Base = object


logger = logging.getLogger(__name__)


class BySentence:
    """An argument of `inference_step` with a row for each sentence of a hub's call."""

    def __init__(self, rows: Tensor, padding: int | None = None) -> None:
        """Takes the rows.

        Args:
            rows: int64 [sentences, width], in the order of the call.
            padding: token that fills rows on the right; None to leave them as wide as they are.
        """
        self._rows, self._padding = rows, padding

    def of(self, numbers: Tensor) -> Tensor:
        """Returns the rows of some sentences.

        Args:
            numbers: int64 [n], of sentences in the call.
        """
        rows = self._rows.to(numbers.device)[numbers]
        if self._padding is None:
            return rows
        return rows[:, : max(1, int(rows.ne(self._padding).sum(1).max()))]


def of_batch(sample: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Replaces every `BySentence` among arguments by the rows of a batch's sentences."""
    return {
        name: value.of(sample["id"]) if isinstance(value, BySentence) else value
        for name, value in arguments.items()
    }


class ELHub(Specialized, _Base):
    """A hub interface that takes prefixes and constraints in the order of its sentences."""

    def generate(
        self,
        tokenized_sentences: Sequence[Tensor] | Tensor,
        beam: int = 5,
        verbose: bool = False,
        skip_invalid_size_inputs: bool = False,
        inference_step_args: dict[str, Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        prefix_tokens: Tensor | Sequence[Tensor] | None = None,
        constraints: Tensor | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generates for sentences; see fairseq's `GeneratorHubInterface.generate`.

        Args:
            tokenized_sentences: N of them, int64 [length] each; one tensor [length] stands for a
                single sentence.
            beam: number of beams.
            verbose: whether to log sentences, hypotheses and hard alignments.
            skip_invalid_size_inputs: whether to leave out sentences that are too long; a warning
                names them.
            inference_step_args: arguments of the task's `inference_step`; `prefix_tokens` and
                `constraints` may be among them.
            prefix_allowed_tokens_fn: is given a sentence's number in the call and its tokens so
                far, and returns the tokens that may follow.
            prefix_tokens: forced beginnings, int64 [N, P], right-padded, or N tensors [length].
                BART's `<s>` need not be among them.
            constraints: a result of fairseq's `pack_constraints`, int64 [N, width], for ordered
                constraints; or "ordered" or "unordered", if they are in `inference_step_args`.
            kwargs: options of the generation.

        Returns:
            The hypotheses of each sentence that is not left out, in order; of a single sentence its
            hypotheses.

        Raises:
            TypeError: if prefixes or constraints are no tensors.
            ValueError: if they have no row for each sentence, or soft alignments are to be logged.
        """
        single = isinstance(tokenized_sentences, Tensor) and tokenized_sentences.dim() == 1
        if isinstance(tokenized_sentences, Tensor) and single:
            tokenized_sentences = [tokenized_sentences]
        if verbose and kwargs.get("print_alignment") == "soft":
            raise ValueError("verbose: expected hard alignments to log, got print_alignment='soft'")
        arguments = dict(inference_step_args or {})
        if prefix_tokens is not None:
            arguments["prefix_tokens"] = prefix_tokens
        if isinstance(constraints, str):
            kwargs["constraints"] = constraints
        elif constraints is not None:
            kwargs["constraints"] = "ordered"
            arguments["constraints"] = constraints
        number, padding = len(tokenized_sentences), self.tgt_dict.pad()
        given = [
            name for name in ("prefix_tokens", "constraints") if arguments.get(name) is not None
        ]
        rows = {name: _rows(name, arguments[name], number, padding) for name in given}
        generate = super().generate
        if isinstance(self, BARTHubInterface) and (rows or prefix_allowed_tokens_fn):
            # Its own method makes batches of batches, in which the sentences' numbers are lost.
            generate = partial(GeneratorHubInterface.generate, self)
            rows["prefix_tokens"] = _after(
                self.src_dict.bos(), rows.get("prefix_tokens"), number, padding
            )
        for name, value in rows.items():
            arguments[name] = BySentence(value, padding if name == "prefix_tokens" else None)
        results: Results = generate(
            tokenized_sentences,
            beam,
            verbose,
            skip_invalid_size_inputs=skip_invalid_size_inputs,
            inference_step_args=arguments,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            **kwargs,
        )
        if len(results) < number:
            self._warn_of_skipped([*tokenized_sentences], number - len(results))
        return results[0] if single and results else results

    def _warn_of_skipped(self, sentences: Sequence[Tensor], skipped: int) -> None:
        """Names the sentences that have no hypotheses: results move up to their places."""
        limits = self.max_positions
        limit = limits[0] if isinstance(limits, (tuple, list)) else limits
        numbers = [number for number, tokens in enumerate(sentences) if len(tokens) > limit]
        logger.warning(
            f"skip_invalid_size_inputs: {skipped} of {len(sentences)} sentences have no "
            f"hypotheses, because they are longer than {limit} tokens: {numbers}"
        )


def _rows(name: str, value: Any, number: int, padding: int) -> Tensor:
    """Returns an argument as int64 [number, width]."""
    if isinstance(value, Sequence) and value and all(isinstance(row, Tensor) for row in value):
        value = collate_tokens(value, padding)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor or tensors, got {type(value).__name__}")
    if value.dim() == 1 and number == 1:
        value = value[None]
    if value.dim() != 2 or len(value) != number or value.dtype != torch.int64:
        raise ValueError(
            f"{name}: expected int64 with a row for each of {number} sentences, "
            f"got {value.dtype} {list(value.shape)}"
        )
    return value


def _after(first: int, rows: Tensor | None, number: int, padding: int) -> Tensor:
    """Returns prefixes that begin with `first`, once."""
    start = torch.full((number, 1), first)
    if rows is None or not rows.size(1):
        return start
    start = start.to(rows.device)
    shifted = torch.cat([start, rows], 1)
    unshifted = torch.cat([rows, torch.full_like(start, padding)], 1)
    return torch.where(rows[:, :1].eq(first), unshifted, shifted)
