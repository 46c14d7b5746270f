"""The beam tree: which state rows each beam of each sentence sees.

A row is written once and stays where it is.  Reordering beams, dropping finished sentences and
reusing dead rows change the tree only: small integers and bits, once per step for all layers.

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
        columns: int64 [G], the column of each living sentence.
    """

    rows: int
    width: int
    columns: Tensor


@dataclass(frozen=True)
class View:
    """What the queries of one step may read.

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
    """Where the rows of one step go, in one segment.

    Attributes:
        segment: index of the segment.
        slots: int64 [n], places in the segment flattened to [rows * columns].
        source: int64 [n], which of the step's rows [G * B] go there, or None for all in order.
    """

    segment: int
    slots: Tensor
    source: Tensor | None


class BeamTree:
    """The topology of one generation, shared by all layers.

    Attributes:
        beam: beams of each sentence, B.
        visible: bool [G, B, capacity], whether a beam sees a row.
        positions: int64 [G, capacity], the position of the token that wrote a row; None where
            nobody reads positions.
        segments: what makes up the capacity, in order.
    """

    def __init__(
        self, sentences: int, beam: int, device: torch.device, keeps_positions: bool = False
    ) -> None:
        """Starts an empty tree.

        Args:
            sentences: number of sentences, G.
            beam: beams of each sentence, at least 1.
            device: where the index lives.
            keeps_positions: whether views are to give the positions of rows.

        Raises:
            ValueError: if `beam` is not positive.
        """
        if beam < 1:
            raise ValueError(f"beam: expected at least 1, got {beam}")
        self.beam = beam
        self.visible = torch.zeros(sentences, beam, 0, dtype=torch.bool, device=device)
        self.positions: Tensor | None = None
        if keeps_positions:
            self.positions = torch.zeros(sentences, 0, dtype=torch.int64, device=device)
        self.segments: list[Segment] = []
        self._prompt = 0  # rows of the prompt, which are never reused
        self._used = 0  # no row from this one on was ever written

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
        self.visible |= ~is_padding.unsqueeze(1)
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
            active: int64 [G'], the sentences that take this step, or None for all.

        Returns:
            The view of the step's queries, and where its rows are to be written.
        """
        rows = self._free_rows(active)
        # The one time that a step waits for the device.
        first, last = torch.stack(torch.aminmax(rows)).tolist() if rows.numel() else (0, -1)
        if last >= self.visible.size(-1):
            self._grow(growth(self.visible.size(-1) - self._prompt, self.beam))
        self._used = max(self._used, last + 1)
        sentences = torch.arange(self.sentences, device=rows.device) if active is None else active
        beams = torch.arange(self.beam, device=rows.device)
        self.visible[sentences[:, None], beams, rows] = (
            True if is_padding is None else ~is_padding.view(-1, self.beam)
        )
        if self.positions is not None:
            self.positions[sentences[:, None], rows] = (
                position.view(-1, self.beam) if isinstance(position, Tensor) else position
            )
        return self._view(active), self._map(rows, active, first, last)

    def accepts(self, order: Tensor) -> bool:
        """Tells whether `reorder` can follow `order` by changing the index only.

        Args:
            order: int64 [G' * B], the old beam, counted over all sentences, of each new beam.

        Returns:
            False where beams of different sentences would mix or a sentence would be doubled.
        """
        if order.numel() % self.beam:
            return False
        origin = order.view(-1, self.beam) // self.beam
        sentences = origin[:, 0]
        return bool((origin == sentences[:, None]).all() & (sentences.diff() > 0).all())

    def reorder(self, order: Tensor) -> None:
        """Lets every beam continue its parent and drops sentences that are not named.

        Args:
            order: int64 [G' * B], the old beam, counted over all sentences, of each new beam.

        Raises:
            ValueError: if `accepts(order)` is False.
        """
        if not self.accepts(order):
            raise ValueError(
                f"order: expected beams to stay in their sentence (beam {self.beam}), "
                f"got {order.tolist()}"
            )
        parents = order.view(-1, self.beam)
        sentences = parents[:, 0] // self.beam
        if sentences.numel() != self.sentences:
            self.visible = self.visible[sentences]
            if self.positions is not None:
                self.positions = self.positions[sentences]
            for segment in self.segments:
                segment.columns = segment.columns[sentences]
        index = (parents % self.beam).unsqueeze(-1).expand(-1, -1, self.visible.size(-1))
        self.visible = self.visible.gather(1, index)

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
            order: int64 [N], the old beam of each new one.

        Returns:
            The new tree of N sentences; the old sentence of each, int64 [N]; and the old rows that
            each keeps, int64 [N, rows], in order.
        """
        visible = self.visible.flatten(0, 1)[order]
        sentences = order // self.beam
        lengths = visible.sum(-1)
        kept = visible.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
        kept = kept[:, : int(lengths.max()) if lengths.numel() else 0]
        tree = BeamTree(order.numel(), 1, self.visible.device, self.positions is not None)
        tree._grow(kept.size(1))
        tree.visible[:, 0] = torch.arange(kept.size(1), device=kept.device) < lengths[:, None]
        if self.positions is not None:
            tree.positions = self.positions[sentences].gather(1, kept)
        tree._used = kept.size(1)
        return tree, sentences, kept

    def _free_rows(self, active: Tensor | None) -> Tensor:
        """Finds B rows for every sentence, lowest first, that no beam sees: int64 [G', B].

        Rows beyond the capacity are free as well.
        """
        visible = self.visible if active is None else self.visible[active]
        free = F.pad(~visible[:, :, self._prompt :].any(1), (0, self.beam), value=True)
        wanted = torch.arange(1, self.beam + 1, device=free.device).expand(len(free), -1)
        # The n-th free row is where the number of free rows reaches n.
        return self._prompt + torch.searchsorted(free.cumsum(1), wanted.contiguous())

    def _grow(self, rows: int) -> None:
        self._add_segment(rows)
        self.visible = F.pad(self.visible, (0, rows))
        if self.positions is not None:
            self.positions = F.pad(self.positions, (0, rows))

    def _add_segment(self, rows: int) -> None:
        columns = torch.arange(self.sentences, device=self.visible.device)
        self.segments.append(Segment(rows, self.sentences, columns))

    def _view(self, active: Tensor | None) -> View:
        visible, positions = self.visible[..., : self._used], self.positions
        if positions is not None:
            positions = positions[:, : self._used]
        if active is not None:
            visible = visible[active]
            positions = None if positions is None else positions[active]
        segments, start = [], 0
        for segment in self.segments:
            rows = min(segment.rows, self._used - start)
            if rows > 0:
                columns = segment.columns if active is None else segment.columns[active]
                segments.append((rows, columns))
            start += segment.rows
        return View(visible, segments, positions)

    def _map(self, rows: Tensor, active: Tensor | None, first: int, last: int) -> list[SlotMapping]:
        """Finds the places of rows [G', B], of which `first` and `last` are the extremes."""
        mappings, start = [], 0
        for index, segment in enumerate(self.segments):
            end = start + segment.rows
            if first < end and last >= start:
                columns = segment.columns if active is None else segment.columns[active]
                slots = ((rows - start) * segment.width + columns[:, None]).flatten()
                source = None
                if first < start or last >= end:
                    source = ((rows >= start) & (rows < end)).flatten().nonzero().flatten()
                    slots = slots[source]
                if slots.numel():
                    mappings.append(SlotMapping(index, slots, source))
            start = end
        return mappings
