"""The states of one generation: those of generated tokens and those of the source."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from el_attention.ops import MAX_SEGMENTS, Rows
from el_attention.state.cache import Payload, RowCache
from el_attention.state.tree import BeamTree, MixedSentencesError, Segment, SlotMapping, View
from el_attention.transfer import to_device, to_host


@dataclass(frozen=True)
class Source:
    """An encoder output, one copy per sentence.

    Attributes:
        states: [S, columns, width].
        is_padding: bool [columns, S], or None where nothing is padding.
    """

    states: Tensor
    is_padding: Tensor | None = None


class States:
    """What all attentions of a decoder read: one tree, and the rows of each attention.

    Attributes:
        tree: the index of which beam sees which row of self-attention.
        source: the encoder output, or None.
        columns: int64 [G], the column of the source of each living sentence; empty without one.
        self_caches: the rows of each self-attention, by a key of the caller.
        cross_caches: the same of each encoder-decoder attention.
    """

    def __init__(
        self,
        sentences: int,
        beam: int,
        device: torch.device,
        source: Source | None = None,
        columns: Tensor | None = None,
        keeps_positions: bool = False,
    ) -> None:
        """Starts without rows.

        Args:
            sentences: number of sentences, G.
            beam: beams of each sentence, B.
            device: where the states live.
            source: the encoder output, or None.
            columns: int64 [G], the column of the source of each sentence; None for all in order.
            keeps_positions: whether an attention reads the positions of rows.

        Raises:
            ValueError: if `beam` is not positive, or sentences and source differ in number.
        """
        self.tree = BeamTree(sentences, beam, device, keeps_positions)
        self.source = source
        self.columns = torch.arange(sentences, device=device) if columns is None else columns
        if source is not None and columns is None and source.states.size(1) != sentences:
            raise ValueError(
                f"source: expected {sentences} columns, one for each sentence, "
                f"got {source.states.size(1)}"
            )
        self.self_caches: dict[Hashable, RowCache] = {}
        self.cross_caches: dict[Hashable, RowCache] = {}
        self._mappings: Sequence[SlotMapping] = ()
        self._view = View(None, ())
        self._is_padding = source is not None and _any(source.is_padding)
        self._whole_source = self._source_view = self.source_seen_by(self.columns)

    @property
    def view(self) -> View:
        """The rows of self-attention that this step's queries see."""
        return self._view

    @property
    def mappings(self) -> Sequence[SlotMapping]:
        """Where this step's rows go."""
        return self._mappings

    @property
    def source_view(self) -> View:
        """The rows of the source that this step's queries see."""
        return self._source_view

    def advance(
        self, position: int | Tensor, is_padding: Tensor | None = None, active: Tensor | None = None
    ) -> None:
        """Makes room for the next token of every beam; once per step for all layers.

        Args:
            position: the position of all tokens in their sequences, or int64 [G' * B], of each.
            is_padding: bool [G' * B], beams whose token is padding, or None.
            active: int64 [G'], on the host, the sentences that take the step, or None for all.
        """
        if len(self.tree.segments) == MAX_SEGMENTS:
            sentences = torch.arange(self.tree.sentences, device=self.columns.device)
            self._copy(self.tree.merge(), sentences)
        self._view, self._mappings = self.tree.append(position, is_padding, active)
        self._source_view = self._whole_source
        if active is not None:
            (there,) = to_device(self.tree.device, active)
            self._source_view = self.source_seen_by(self.columns[there])

    def append(self, key: Hashable, payload: Payload) -> list[Rows]:
        """Writes this step's rows of an attention, [G' * B, ...]; returns all that are read."""
        cache = self._self_cache(key)
        cache.write(payload, self._mappings, self.tree.segments)
        return cache.read(self._view)

    def reserve(self, key: Hashable, payload: Payload) -> list[Payload]:
        """Makes room for this step's rows of an attention, whoever writes them.

        Args:
            key: the key of the attention.
            payload: rows like those to be kept, [..., kv_heads, width] each.

        Returns:
            Keys and values of each segment, [rows, columns, kv_heads, width] each.
        """
        cache = self._self_cache(key)
        cache.reserve(payload, self.tree.segments)
        return cache.segments

    def reorder(self, order: Tensor) -> Tensor:
        """Follows the beams; copies states only where beams of different sentences mix.

        Args:
            order: int64 [G' * B], the old beam of each new one; the host waits for one that it
                does not have.

        Returns:
            int64 [G'], on the host, the old sentence of each new one.
        """
        beam, before = self.tree.beam, self.tree.sentences
        (order,) = to_host(order)
        try:
            sentences = self.tree.reorder(order)
        except MixedSentencesError:
            segments = self.tree.segments
            self.tree, there, kept = self.tree.separate(order)
            self._copy(segments, there, kept)
            sentences = order // beam
        else:
            if len(sentences) == before:
                return sentences
            (there,) = to_device(self.tree.device, sentences)
        self.columns = self.columns[there]
        self._whole_source = self._source_view = self.source_seen_by(self.columns)
        return sentences

    def tensors(self) -> Iterator[Tensor]:
        """Yields every tensor of states that is kept, the source included."""
        if self.source is not None:
            yield self.source.states
        for cache in (*self.self_caches.values(), *self.cross_caches.values()):
            for keys, values in cache.segments:
                yield keys
                if values is not keys:
                    yield values

    def source_seen_by(self, columns: Tensor) -> View:
        """Shows the rows of the source to the sentences whose columns are given, int64 [n]."""
        if self.source is None:
            return View(None, ())
        visible = None
        if self._is_padding:
            assert self.source.is_padding is not None
            visible = ~self.source.is_padding[columns].unsqueeze(1)
        return View(visible, [(self.source.states.size(0), columns)])

    def _self_cache(self, key: Hashable) -> RowCache:
        cache = self.self_caches.get(key)
        if cache is None:
            cache = self.self_caches[key] = RowCache()
        return cache

    def _copy(
        self, segments: Sequence[Segment], sentences: Tensor, kept: Tensor | None = None
    ) -> None:
        """Copies all rows of self-attention, see `RowCache.gather`; one attention at a time."""
        for key, cache in self.self_caches.items():
            if cache.segments:
                self.self_caches[key] = cache.gather(segments, sentences, kept)


def _any(mask: Tensor | None) -> bool:
    return mask is not None and bool(mask.any())
