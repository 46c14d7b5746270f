"""Sessions of fairseq-interactive, which a line that cannot be answered does not end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset
from torch import Tensor

from el_attention.fairseq_plugin.parts import Results
from el_attention.fairseq_plugin.refusal import ANSWER, refusal

if TYPE_CHECKING:
    from fairseq.tasks import FairseqTask as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

SHOWN = 60  # characters of a line in a warning


class Lines(list[Tensor]):
    """Sentences that fairseq-interactive has read, int64 [length] each.

    Attributes:
        texts: the lines.
    """

    texts: Sequence[str] = ()


class LineTokens(Tensor):
    """Source tokens of a batch of lines.

    fairseq-interactive hands nothing but tokens and lengths from the data set to the task, so that
    the tokens bear the mark; it survives a move to another device.
    """


class RefusedLine(LineTokens):
    """Source tokens that the model is not to see."""


class LinesDataset(BaseWrapperDataset):
    """A data set of lines in which those that are too long stay, each in a batch of its own.

    fairseq raises an error about the first one or, if told to, leaves them out.
    """

    def __init__(self, dataset: FairseqDataset, texts: Sequence[str]) -> None:
        """Takes the data set, and the text of each of its lines."""
        super().__init__(dataset)
        self._texts = texts
        self._refused: set[int] = set()

    def around(self, wrap: Callable[[FairseqDataset], FairseqDataset]) -> LinesDataset:
        """Returns the same lines, with another data set around the inner one."""
        return LinesDataset(wrap(self.dataset), self._texts)

    def __getitem__(self, index: int) -> tuple[bool, Any]:
        """Returns whether a line is refused, and the item of the inner data set."""
        return int(index) in self._refused, self.dataset[index]

    def collater(self, samples: Sequence[tuple[bool, Any]]) -> Any:
        """Makes a batch, whose source tokens are a `RefusedLine` if its only line is refused."""
        batch = self.dataset.collater([item for _, item in samples])
        kind = RefusedLine if any(refused for refused, _ in samples) else LineTokens
        net_input = batch["net_input"]
        net_input["src_tokens"] = net_input["src_tokens"].as_subclass(kind)
        return batch

    def filter_indices_by_size(self, indices: Any, max_sizes: Any) -> tuple[Any, list[int]]:
        """Keeps all lines, and refuses those of more tokens than the model has positions.

        Tokens that a task adds, such as those of languages, count.
        """
        limit = max_sizes[0] if isinstance(max_sizes, tuple) else max_sizes
        _, ignored = self.dataset.filter_indices_by_size(indices, max_sizes)
        for index in map(int, indices):
            tokens = self._tokens(index)
            if index in ignored or (isinstance(limit, (int, float)) and tokens > limit):
                self._refused.add(index)
                logger.warning(
                    f"{self._name(index)}: expected at most {limit} tokens, the positions of the "
                    f"model, got {tokens}; {ANSWER}"
                )
        return indices, []

    def batch_by_size(
        self,
        indices: Sequence[int],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[list[int]]:
        """Makes batches as the inner data set does, and batches of one line that is too long.

        Args:
            indices: the indices of the lines, in order.
            max_tokens: the most tokens of a batch; a longer line gets a batch of its own.
            max_sentences: the most sentences of a batch.
            required_batch_size_multiple: as in fairseq.
        """
        alone = {
            int(index)
            for index in indices
            if int(index) in self._refused or self._exceeds(int(index), max_tokens)
        }
        batches: list[list[int]] = []
        others = [int(index) for index in indices if int(index) not in alone]
        if others:
            batches += self.dataset.batch_by_size(
                torch.tensor(others).numpy(),
                max_tokens=max_tokens,
                max_sentences=max_sentences,
                required_batch_size_multiple=required_batch_size_multiple,
            )
        return [*batches, *([index] for index in sorted(alone))]

    def _exceeds(self, index: int, max_tokens: int | None) -> bool:
        if not max_tokens or self.num_tokens(index) <= max_tokens:
            return False
        logger.warning(
            f"{self._name(index)}: {self.num_tokens(index)} tokens exceed --max-tokens "
            f"{max_tokens}; it gets a batch of its own"
        )
        return True

    def _tokens(self, index: int) -> int:
        batch = self.dataset.collater([self.dataset[index]])
        return int(batch["net_input"]["src_lengths"].max())

    def _name(self, index: int) -> str:
        return _named(self._texts[index])


def _named(text: str) -> str:
    return f"line {text if len(text) <= SHOWN else text[:SHOWN] + '...'!r}"


class ELInteractive(_Base):
    """What a task needs for a session of fairseq-interactive; a mixin of `ELTask`."""

    el_generation: tuple[Any, dict[str, Any]]
    el_source_words: int | None  # of the source dictionary, before a program prints hypotheses

    def get_interactive_tokens_and_lengths(
        self, lines: Sequence[str], encode_fn: Callable[[str], str]
    ) -> tuple[Lines, list[int]]:
        """Encodes lines as the original task does; only fairseq-interactive asks for it.

        The program adds the words that it prints to the dictionary; the model does not know them.

        Raises:
            ValueError: if soft alignments are asked for.
        """
        if getattr(self.el_generation[0], "print_alignment", None) == "soft":
            raise ValueError(
                "--print-alignment: expected 'hard', got 'soft', which fairseq-interactive cannot "
                "print; fairseq-generate can"
            )
        tokens, lengths = super().get_interactive_tokens_and_lengths(lines, encode_fn)
        if self.el_source_words is not None:
            known, unk = self.el_source_words, self.source_dictionary.unk()
            tokens = [line.masked_fill(line.ge(known), unk) for line in tokens]
        marked = Lines(tokens)
        marked.texts = list(lines)
        return marked, lengths

    def build_dataset_for_inference(self, src_tokens: Any, *args: Any, **kwargs: Any) -> Any:
        """Builds a data set as the original task does; of `Lines` a `LinesDataset`."""
        dataset = super().build_dataset_for_inference(src_tokens, *args, **kwargs)
        return LinesDataset(dataset, src_tokens.texts) if isinstance(src_tokens, Lines) else dataset

    def inference_step(
        self, generator: Any, models: Any, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Results:
        """Generates as the original task does; a refused line gets an empty hypothesis."""
        tokens = sample["net_input"]["src_tokens"]
        if isinstance(tokens, RefusedLine):
            return [refusal(tokens.device) for _ in tokens]
        if isinstance(tokens, LineTokens):  # models are given tensors
            net_input = {**sample["net_input"], "src_tokens": tokens.as_subclass(Tensor)}
            sample = {**sample, "net_input": net_input}
        return super().inference_step(generator, models, sample, *args, **kwargs)

    def name_of_lines(self, sample: dict[str, Any]) -> Callable[[Tensor], str] | None:
        """Returns what names a line by its source tokens; None where no lines were read."""
        if not isinstance(sample["net_input"]["src_tokens"], LineTokens):
            return None
        words = self.source_dictionary
        return lambda tokens: _named(words.string(tokens[tokens.ne(words.pad())]))
