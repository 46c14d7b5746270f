"""The beam tree: which state rows each beam of each sentence sees.

A row is written once and never moved.  Reordering beams, dropping finished sentences and reusing
dead rows change the tree only: small integers and bits, once per step for all layers.

The row axis is cut into segments.  Every segment is a block [rows, columns] in which one column
belongs to one sentence; sentences that finish keep their column until the generation ends, but
segments made later have columns for the living sentences only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROWTH = 32  # least rows of a new segment


def growth(rows: int, beam: int) -> int:
    """Returns by how many rows a tree of `rows` rows beyond its prompt grows."""
    # In proportion to what was appended: an operator reads a limited number of segments.
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
        columns: int64 [sentences], the column of each living sentence.
    """

    rows: int
    width: int
    columns: Tensor


@dataclass(frozen=True)
class View:
    """What the queries of one step may read.

    Attributes:
        visible: bool [G, B or 1, U], or None where every beam sees every row.
        pieces: for each segment, the number of its rows that are read, and the columns of the
            sentences, int64 [G].
        ages: int64 [G, U], the position in its sequence of the token that wrote each row, or None
            for rows that are in order.
    """

    visible: Tensor | None
    pieces: Sequence[tuple[int, Tensor]]
    ages: Tensor | None = None


@dataclass(frozen=True)
class Placement:
    """Where the rows of one step go, in one segment.

    Attributes:
        segment: index of the segment.
        target: int64 [n], positions in the segment flattened to [rows * columns].
        source: int64 [n], positions in the step's rows [G * B].
    """

    segment: int
    target: Tensor
    source: Tensor


class BeamTree:
    """The topology of one generation, shared by all layers.

    Attributes:
        beam: beams of each sentence, B.
        visible: bool [G, B, capacity], whether a beam sees a row.
        ages: int64 [G, capacity], the position of the token that wrote a row.
        segments: the blocks that make up the capacity, in order.
    """

    def __init__(self, sentences: int, beam: int, device: torch.device) -> None:
        """Starts an empty tree.

        Args:
            sentences: number of sentences, G.
            beam: beams of each sentence, at least 1.
            device: where the index lives.

        Raises:
            ValueError: if `beam` is not positive.
        """
        if beam < 1:
            raise ValueError(f"beam: expected at least 1, got {beam}")
        self.beam = beam
        self.visible = torch.zeros(sentences, beam, 0, dtype=torch.bool, device=device)
        self.ages = torch.zeros(sentences, 0, dtype=torch.int64, device=device)
        self.segments: list[Segment] = []
        self._fixed = 0  # rows of the prompt, never reused
        self._used = 0  # rows beyond this one were never written

    @property
    def sentences(self) -> int:
        """Number of living sentences, G."""
        return self.visible.size(0)

    @property
    def live_rows(self) -> int:
        """Number of rows that some beam of a living sentence sees, over all sentences."""
        return int(self.visible.any(1).sum())

    def add_prompt(self, kept: Tensor, positions: Tensor) -> None:
        """Adds rows that every beam of a sentence sees, before the first `append`.

        Args:
            kept: bool [G, P], the rows that are seen; the others are padding.
            positions: int64 [G, P], of their tokens.

        Raises:
            ValueError: if the tree is not empty.
        """
        if self.segments:
            raise ValueError("add_prompt: expected an empty tree, got one with rows")
        rows = kept.size(1)
        self._grow(rows)
        self.visible |= kept.unsqueeze(1)
        self.ages += positions
        self._fixed = self._used = rows

    def append(
        self, age: int | Tensor, hidden: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[View, list[Placement]]:
        """Gives every beam a row for its newest token.

        Args:
            age: position of the tokens in their sequences, or int64 [G' * B], of each.
            hidden: bool [G' * B], beams that must not see their own new row (padding), or None.
            active: int64 [G'], the sentences that take this step, or None for all.

        Returns:
            The view of the step's queries, and where its rows are to be written.
        """
        slots = self._free_slots(active)
        seen = torch.ones_like(slots, dtype=torch.bool)
        if hidden is not None:
            seen = ~hidden.view(-1, self.beam)
        chosen = torch.arange(self.sentences, device=slots.device) if active is None else active
        beams = torch.arange(self.beam, device=slots.device)
        self.visible[chosen[:, None], beams, slots] = seen
        self.ages[chosen[:, None], slots] = (
            age.view(-1, self.beam) if isinstance(age, Tensor) else age
        )
        self._used = max(self._used, int(slots.max()) + 1)
        return self._view(chosen if active is not None else None), self._place(slots, chosen)

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
        return bool((origin == sentences[:, None]).all() and (sentences.diff() > 0).all())

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
            self.ages = self.ages[sentences]
            for segment in self.segments:
                segment.columns = segment.columns[sentences]
        index = (parents % self.beam).unsqueeze(-1).expand(-1, -1, self.visible.size(-1))
        self.visible = self.visible.gather(1, index)

    def separate(self, order: Tensor) -> tuple[BeamTree, Tensor, Tensor]:
        """Makes a tree of beam 1 in which every new beam is a sentence of its own.

        For orders that `accepts` refuses.  The states have to be copied, see `StatePool.gather`.

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
        tree = BeamTree(order.numel(), 1, self.visible.device)
        tree._grow(kept.size(1))
        tree.visible[:, 0] = torch.arange(kept.size(1), device=kept.device) < lengths[:, None]
        tree.ages = self.ages[sentences].gather(1, kept)
        tree._used = kept.size(1)
        return tree, sentences, kept

    def _free_slots(self, active: Tensor | None) -> Tensor:
        """Finds B unused rows for every sentence, lowest first: int64 [G', B]."""
        while True:
            visible = self.visible if active is None else self.visible[active]
            free = ~visible[:, :, self._fixed :].any(1)
            if free.size(1) >= self.beam and int(free.sum(1).min()) >= self.beam:
                order = free.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
                return self._fixed + order[:, : self.beam]
            self._grow(growth(self.visible.size(-1) - self._fixed, self.beam))

    def _grow(self, rows: int) -> None:
        device = self.visible.device
        columns = torch.arange(self.sentences, device=device)
        self.segments.append(Segment(rows, self.sentences, columns))
        self.visible = torch.nn.functional.pad(self.visible, (0, rows))
        self.ages = torch.nn.functional.pad(self.ages, (0, rows))

    def _view(self, active: Tensor | None) -> View:
        visible, ages = self.visible[..., : self._used], self.ages[:, : self._used]
        if active is not None:
            visible, ages = visible[active], ages[active]
        pieces, start = [], 0
        for segment in self.segments:
            rows = min(segment.rows, self._used - start)
            if rows > 0:
                columns = segment.columns if active is None else segment.columns[active]
                pieces.append((rows, columns))
            start += segment.rows
        return View(visible, pieces, ages)

    def _place(self, slots: Tensor, sentences: Tensor) -> list[Placement]:
        placements, start = [], 0
        for index, segment in enumerate(self.segments):
            row = slots - start
            source = ((row >= 0) & (row < segment.rows)).flatten().nonzero().flatten()
            if source.numel():
                target = row * segment.width + segment.columns[sentences][:, None]
                placements.append(Placement(index, target.flatten()[source], source))
            start += segment.rows
        return placements
