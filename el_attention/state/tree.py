"""The beam tree: which state rows each beam of each sentence sees.

A row is written once and stays where it is.  Reordering beams, dropping finished sentences and
reusing dead rows change the tree only: small integers and bits, once per step for all layers.
The tree is on the host, so that a step asks no device where its rows go and whether they have room;
the device gets what its queries may read and where rows are written, in one transfer per step.

The row axis is cut into segments.  Every segment is a block [rows, columns] in which one column
belongs to one sentence; sentences that finish keep their column until the generation ends, but
segments made later have columns for the living sentences only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from el_attention.transfer import to_device, to_host

GROWTH = 32  # least rows of a new segment


def growth(rows: int, beam: int) -> int:
    """Returns by how many rows a tree of `rows` rows beyond its prompt grows."""
    return max(GROWTH, beam, (rows + 1) // 2)


def capacity(rows: int, beam: int) -> int:
    """Returns how many rows a tree has when it holds `rows` rows that were appended one by one."""
    reserved = 0
    while reserved < rows:
        reserved += growth(reserved, beam)
    return reserved


@dataclass
class Segment:
    """A block of rows.

    Attributes:
        rows: number of rows of each column.
        width: number of columns at allocation.
        columns: int64 [G], on the device, the column of each living sentence.
    """

    rows: int
    width: int
    columns: Tensor


@dataclass(frozen=True)
class View:
    """What the queries of one step may read, on the device.

    Attributes:
        visible: bool [G, B or 1, U], or None where every beam sees every row.
        segments: the number of rows that are read of each segment, and the columns of the
            sentences, int64 [G].
        positions: int64 [G, U], the position in its sequence of the token that wrote each row, or
            None where the rows are in order or nobody reads positions.
    """

    visible: Tensor | None
    segments: Sequence[tuple[int, Tensor]]
    positions: Tensor | None = None


@dataclass(frozen=True)
class SlotMapping:
    """Where the rows of one step go, in one segment; on the device.

    Attributes:
        segment: index of the segment.
        slots: int64 [n], places in the segment flattened to [rows * columns].
        source: int64 [n], which of the step's rows [G * B] go there, or None for all in order.
    """

    segment: int
    slots: Tensor
    source: Tensor | None


class MixedSentencesError(ValueError):
    """Beams would go on from beams of other sentences, or a sentence would be there twice."""


class BeamTree:
    """The topology of one generation, shared by all layers.

    Attributes:
        beam: beams of each sentence, B.
        device: where the rows are, and views and slot mappings.
        visible: bool [G, B, capacity], on the host, whether a beam sees a row.
        positions: int64 [G, capacity], on the device, the position of the token that wrote a row;
            None where nobody reads positions.
        segments: what makes up the capacity, in order.
    """

    def __init__(
        self, sentences: int, beam: int, device: torch.device, keeps_positions: bool = False
    ) -> None:
        """Starts an empty tree.

        Args:
            sentences: number of sentences, G.
            beam: beams of each sentence, at least 1.
            device: where the rows are.
            keeps_positions: whether views are to give the positions of rows.

        Raises:
            ValueError: if `beam` is not positive.
        """
        if beam < 1:
            raise ValueError(f"beam: expected at least 1, got {beam}")
        self.beam = beam
        self.device = device
        self.visible = torch.zeros(sentences, beam, 0, dtype=torch.bool, device="cpu")
        self.positions: Tensor | None = None
        if keeps_positions:
            self.positions = torch.zeros(sentences, 0, dtype=torch.int64, device=device)
        self.segments: list[Segment] = []
        self._prompt = 0  # rows of the prompt, which are never reused
        self._used = 0  # no row from this one on was ever written
        self._wanted = torch.arange(1, beam + 1, device="cpu").repeat(sentences, 1)

    @property
    def sentences(self) -> int:
        """Number of living sentences, G."""
        return self.visible.size(0)

    @property
    def live_rows(self) -> int:
        """Number of rows that some beam of a living sentence sees, over all sentences."""
        return int(self.visible.any(1).sum())

    def add_prompt(self, is_padding: Tensor, positions: Tensor) -> None:
        """Adds rows that every beam of a sentence sees, before the first `append`.

        Args:
            is_padding: bool [G, P], the rows that no beam sees.
            positions: int64 [G, P], the positions of their tokens.

        Raises:
            ValueError: if the tree is not empty.
        """
        if self.segments:
            raise ValueError("add_prompt: expected an empty tree, got one with rows")
        rows = is_padding.size(1)
        self._grow(rows)
        (on_host,) = to_host(is_padding)
        self.visible |= ~on_host.unsqueeze(1)
        if self.positions is not None:
            self.positions += positions
        self._prompt = self._used = rows

    def append(
        self, position: int | Tensor, is_padding: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[View, list[SlotMapping]]:
        """Gives every beam a row for its newest token.

        Args:
            position: the position of all tokens in their sequences, or int64 [G' * B], of each.
            is_padding: bool [G' * B], beams whose token is padding, which no beam sees; or None.
                The host waits for it.
            active: int64 [G'], on the host, the sentences that take this step, or None for all.

        Returns:
            The view of the step's queries, and where its rows are to be written.
        """
        visible = self.visible if active is None else self.visible[active]
        rows = self._free_rows(visible)
        first, last = [int(x) for x in rows.aminmax()] if rows.numel() else (0, -1)
        if last >= self.visible.size(-1):
            more = growth(self.visible.size(-1) - self._prompt, self.beam)
            self._grow(more)
            visible = self.visible if active is None else F.pad(visible, (0, more))
        self._used = max(self._used, last + 1)
        if is_padding is None:
            visible.scatter_(2, rows.unsqueeze(2), True)
        else:
            (is_padding,) = to_host(is_padding)
            visible.scatter_(2, rows.unsqueeze(2), ~is_padding.view(-1, self.beam, 1))
        if active is not None:
            self.visible[active] = visible
        written = self._written(rows, first, last)
        return self._sent(rows, visible[..., : self._used], written, active, position)

    def accepts(self, order: Tensor) -> bool:
        """Tells whether `reorder` can follow `order`.

        Args:
            order: int64 [G' * B], on the host, the old beam, counted over all sentences, of each
                new beam.

        Returns:
            False where beams of different sentences would mix or a sentence would be doubled.
        """
        if order.numel() % self.beam:
            return False
        origin = order.view(-1, self.beam) // self.beam
        sentences = origin[:, 0]
        return bool((origin == sentences[:, None]).all() & (sentences.diff() > 0).all())

    def reorder(self, order: Tensor) -> Tensor:
        """Lets every beam continue its parent and drops sentences that are not named.

        Args:
            order: int64 [G' * B], on the host, the old beam, counted over all sentences, of each
                new beam.

        Returns:
            int64 [G'], on the host, the old sentence of each new one.

        Raises:
            MixedSentencesError: if `accepts(order)` is False.
        """
        if not self.accepts(order):
            raise MixedSentencesError(
                f"order: expected beams to stay in their sentence (beam {self.beam}), "
                f"got {order.tolist()}"
            )
        sentences = order[:: self.beam] // self.beam
        if sentences.numel() != self.sentences:
            self._wanted = self._wanted[: sentences.numel()]
            (there,) = to_device(self.device, sentences)
            if self.positions is not None:
                self.positions = self.positions[there]
            for segment in self.segments:
                segment.columns = segment.columns[there]
        visible = self.visible.flatten(0, 1).index_select(0, order)
        self.visible = visible.unflatten(0, (-1, self.beam))
        return sentences

    def merge(self) -> list[Segment]:
        """Makes one segment of all, with columns for the living sentences; rows keep their numbers.

        The states have to be copied, see `RowCache.gather`.

        Returns:
            The segments that there were.
        """
        merged, self.segments = self.segments, []
        self._add_segment(self.visible.size(-1))
        return merged

    def separate(self, order: Tensor) -> tuple[BeamTree, Tensor, Tensor]:
        """Makes a tree of beam 1 in which every new beam is a sentence of its own.

        For orders that `accepts` refuses.  The states have to be copied, see `RowCache.gather`.

        Args:
            order: int64 [N], on the host, the old beam of each new one.

        Returns:
            The new tree of N sentences; the old sentence of each, int64 [N]; and the old rows that
            each keeps, int64 [N, rows], in order; both on the device.
        """
        visible = self.visible.flatten(0, 1)[order]
        sentences = order // self.beam
        lengths = visible.sum(-1)
        kept = visible.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
        kept = kept[:, : int(lengths.max()) if lengths.numel() else 0]
        tree = BeamTree(order.numel(), 1, self.device, self.positions is not None)
        tree._grow(kept.size(1))
        tree.visible[:, 0] = torch.arange(kept.size(1), device="cpu") < lengths[:, None]
        sentences, kept = to_device(self.device, sentences, kept)
        if self.positions is not None:
            tree.positions = self.positions[sentences].gather(1, kept)
        tree._used = kept.size(1)
        return tree, sentences, kept

    def _free_rows(self, visible: Tensor) -> Tensor:
        """Finds B rows for every sentence, lowest first, that no beam sees: int64 [G', B].

        Rows beyond the capacity are free as well.

        Args:
            visible: bool [G', B, capacity], of the sentences.
        """
        free = F.pad(~visible[:, :, self._prompt :].any(1), (0, self.beam), value=True)
        # The n-th free row is where the number of free rows reaches n.
        rows = torch.searchsorted(free.cumsum(1), self._wanted[: len(free)])
        return rows + self._prompt if self._prompt else rows

    def _grow(self, rows: int) -> None:
        self._add_segment(rows)
        self.visible = F.pad(self.visible, (0, rows))
        if self.positions is not None:
            self.positions = F.pad(self.positions, (0, rows))

    def _add_segment(self, rows: int) -> None:
        columns = torch.arange(self.sentences, device=self.device)
        self.segments.append(Segment(rows, self.sentences, columns))

    def _sent(
        self,
        rows: Tensor,
        visible: Tensor,
        written: list[tuple[int, int, Tensor | None]],
        active: Tensor | None,
        position: int | Tensor,
    ) -> tuple[View, list[SlotMapping]]:
        """Sends a step to the device.

        Args:
            rows: int64 [G', B], of the newest tokens.
            visible: bool [G', B, U], the rows that the queries read.
            written: what `_written` says of `rows`.
            active: as in `append`.
            position: as in `append`.
        """
        sources = [source for _, _, source in written if source is not None]
        given = [] if active is None else [active]
        rows, visible, *sources = to_device(self.device, rows, visible, *sources, *given)
        there = None if active is None else sources.pop()
        columns = [x.columns if there is None else x.columns[there] for x in self.segments]
        mappings = []
        for index, start, source in written:
            places = rows - start if start else rows
            slots = torch.add(columns[index][:, None], places, alpha=self.segments[index].width)
            slots = slots.flatten()
            if source is not None:
                source = sources.pop(0)
                slots = slots[source]
            mappings.append(SlotMapping(index, slots, source))
        segments, start = [], 0
        for segment, column in zip(self.segments, columns, strict=True):
            if start < self._used:
                segments.append((min(segment.rows, self._used - start), column))
            start += segment.rows
        return View(visible, segments, self._positioned(rows, there, position)), mappings

    def _written(self, rows: Tensor, first: int, last: int) -> list[tuple[int, int, Tensor | None]]:
        """Finds the segments that rows [G', B] between `first` and `last` lie in.

        Returns:
            The index of each, its first row, and which of the G' * B rows lie in it, int64 [n], on
            the host, or None for all.
        """
        found: list[tuple[int, int, Tensor | None]] = []
        start = 0
        for index, segment in enumerate(self.segments):
            end = start + segment.rows
            if first >= start and last < end:
                found.append((index, start, None))
            elif first < end and last >= start:
                inside = ((rows >= start) & (rows < end)).flatten().nonzero().flatten()
                if len(inside):
                    found.append((index, start, inside))
            start = end
        return found

    def _positioned(
        self, rows: Tensor, active: Tensor | None, position: int | Tensor
    ) -> Tensor | None:
        """Notes the positions of the tokens that write rows [G', B]; returns `View.positions`."""
        if self.positions is None:
            return None
        if isinstance(position, Tensor):
            position = position.view(-1, self.beam)
        if active is None:
            self.positions.scatter_(1, rows, position)
            return self.positions[:, : self._used]
        self.positions[active[:, None], rows] = position
        return self.positions[active, : self._used]
