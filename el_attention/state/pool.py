"""The payload of one attention: blocks of rows that only ever grow in number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from el_attention.ops import Rows
from el_attention.state.tree import Placement, Segment, View

# What an attention keeps of each row: keys and values, [rows, columns, key heads, width] each.
# Where the states serve as both, the two are one tensor.
Payload = tuple[Tensor, Tensor]


class StatePool:
    """The payload of one attention, laid out as the segments of a `BeamTree`.

    Attributes:
        blocks: one payload for each segment that has been written.
    """

    def __init__(self, blocks: Sequence[Payload] = ()) -> None:
        """Takes over `blocks` as the first segments, without copying them."""
        self.blocks: list[Payload] = list(blocks)

    @property
    def nbytes(self) -> int:
        """Bytes reserved, counting a tensor that is both keys and values once."""
        return sum(tensor.nbytes for block in self.blocks for tensor in _distinct(block))

    def write(
        self, payload: Payload, placements: Sequence[Placement], segments: Sequence[Segment]
    ) -> None:
        """Stores the rows of one step.

        Args:
            payload: [G * B, key heads, width] each.
            placements: where they go.
            segments: of the tree; missing blocks are allocated.
        """
        for segment in segments[len(self.blocks) :]:
            self.blocks.append(_allocate(payload, segment))
        for placement in placements:
            block = self.blocks[placement.segment]
            for stored, rows in zip(_distinct(block), _distinct(payload), strict=True):
                every = placement.source.size(0) == rows.size(0)
                source = rows if every else rows[placement.source]
                # A view, never a copy: `flatten` would write into a copy of a block in pieces.
                stored.view(-1, *stored.shape[2:]).index_copy_(0, placement.target, source)

    def fill(self, payload: Payload, columns: Tensor, width: int) -> None:
        """Stores some columns of the first segment; the whole of it is taken over without a copy.

        Args:
            payload: [rows, columns, key heads, width] each.
            columns: int64 [columns], which these are.
            width: columns of the segment.
        """
        if len(columns) == width:
            self.blocks = [payload]
            return
        if not self.blocks:
            whole = [x.new_empty(len(x), width, *x.shape[2:]) for x in _distinct(payload)]
            self.blocks = [(whole[0], whole[-1])]
        for stored, part in zip(_distinct(self.blocks[0]), _distinct(payload), strict=True):
            stored[:, columns] = part

    def read(self, view: View) -> list[Rows]:
        """Shows the rows of a view, in place.

        Args:
            view: of the tree whose segments the blocks follow.

        Returns:
            The operand of `el_attention.ops.attend`.
        """
        pieces = []
        for (keys, values), (rows, columns) in zip(self.blocks, view.pieces, strict=False):
            first = _first(keys, rows)
            same = values is keys
            pieces.append(Rows(first, first if same else _first(values, rows), columns))
        return pieces

    def gather(self, segments: Sequence[Segment], sentences: Tensor, kept: Tensor) -> StatePool:
        """Copies rows into a pool of one block.

        Args:
            segments: of the tree the rows lie in.
            sentences: int64 [N], the sentence of each new column.
            kept: int64 [N, rows], the rows each new column keeps.

        Returns:
            A pool with one block of [rows, N, key heads, width].
        """
        columns = torch.arange(len(sentences), device=kept.device)

        def copy(tensors: list[Tensor]) -> Tensor:
            by_column = [
                block[:, segment.columns[sentences]]
                for block, segment in zip(tensors, segments, strict=False)
            ]
            # An index with strides of its own would give its strides to the result.
            return torch.cat(by_column)[kept.t().contiguous(), columns]

        keys, values = zip(*self.blocks, strict=True)
        new_keys = copy(list(keys))
        return StatePool([(new_keys, new_keys if keys[0] is values[0] else copy(list(values)))])


def _first(block: Tensor, rows: int) -> Tensor:
    return block if rows == block.size(0) else block[:rows]


def _distinct(payload: Payload) -> tuple[Tensor, ...]:
    keys, values = payload
    return (keys,) if keys is values else (keys, values)


def _allocate(payload: Payload, segment: Segment) -> Payload:
    # Zeros and not empty memory, which may hold NaN: with that in unseen rows the pure-PyTorch
    # operators are right, but slow.
    blocks = [
        rows.new_zeros(segment.rows, segment.width, *rows.shape[1:]) for rows in _distinct(payload)
    ]
    return blocks[0], blocks[-1]
