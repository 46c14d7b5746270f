"""Shards of a data set: the part that one of several runs of fairseq-generate works on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fairseq.data import BaseWrapperDataset, FairseqDataset

logger = logging.getLogger(__name__)


class Shard(BaseWrapperDataset):
    """A data set of which a shard is put into batches; every sentence is in exactly one shard."""

    def __init__(
        self, dataset: FairseqDataset, number: int, shards: int, *, of_sentences: bool
    ) -> None:
        """Takes the data set, and which shard it is to be.

        Args:
            dataset: all sentences.
            number: the number of the shard, from 0 on.
            shards: how many there are.
            of_sentences: whether sentences are dealt out, or batches.  Batches that depend on free
                memory differ between shards and cannot be.
        """
        super().__init__(dataset)
        self._number, self._shards, self._of_sentences = number, shards, of_sentences

    def batch_by_size(self, indices: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Makes the batches of the shard as the inner data set makes those of all sentences.

        Raises:
            SystemExit: with status 0 if the shard has no sentence, where fairseq-generate would
                divide by their number.
        """
        mine = slice(self._number, None, self._shards)
        if self._of_sentences:
            indices = indices[mine]
        batches = self.dataset.batch_by_size(indices, *args, **kwargs) if len(indices) else []
        if not self._of_sentences:
            batches = batches[mine]
        if not len(batches):
            logger.warning(
                f"--shard-id {self._number}: no sentence is left for this shard, because there are "
                f"fewer batches than --num-shards {self._shards}; nothing is printed"
            )
            raise SystemExit(0)
        return batches


def sharded(dataset: FairseqDataset, cfg: Any, number: int, by_memory: bool) -> FairseqDataset:
    """Returns the shard that fairseq-generate is asked for, which it does not look at itself.

    Args:
        dataset: all sentences.
        cfg: fairseq's whole configuration.
        number: the number of shards that the program takes batches from itself.
        by_memory: whether batches depend on free memory.

    Raises:
        ValueError: if there is no such shard, or there are shards of two kinds.
    """
    shards, shard = cfg.dataset.num_shards, cfg.dataset.shard_id
    if shards < 1 or not 0 <= shard < shards:
        raise ValueError(
            f"--shard-id: expected 0 to {max(shards, 1) - 1}, because --num-shards is {shards}, "
            f"got {shard}"
        )
    world = cfg.distributed_training.distributed_world_size
    if shards > 1 and world > 1:
        raise ValueError(
            f"--num-shards: expected 1, because --distributed-world-size is {world}, got {shards}"
        )
    if shards == 1 or number > 1:  # fairseq-eval-lm takes the shard itself
        return dataset
    return Shard(dataset, shard, shards, of_sentences=by_memory)


def require_constraints(dataset: FairseqDataset, cfg: Any) -> None:
    """Sees to it that batches hold the constraints that a program is to generate with.

    Raises:
        ValueError: if they do not.
    """
    asked = cfg.generation.constraints
    if asked and len(dataset) and "constraints" not in dataset.collater([dataset[0]]):
        raise ValueError(
            f"--constraints: expected none, because data sets hold no constraints, got {asked!r}; "
            "fairseq-interactive reads them from its lines, in tasks that take them"
        )
