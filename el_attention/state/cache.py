"""The rows of one attention: segments that only ever grow in number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from el_attention.ops import Rows
from el_attention.state.tree import Segment, SlotMapping, View

# What an attention keeps of each row: keys and values, [rows, columns, kv_heads, width] each.
# Where the states serve as both, the two are one tensor.
Payload = tuple[Tensor, Tensor]


class RowCache:
    """The rows of one attention, laid out as the segments of a `BeamTree`.

    Attributes:
        segments: keys and values of each segment that has been written.
    """

    def __init__(self, segments: Sequence[Payload] = ()) -> None:
        """Takes over the first `segments`, without copying them."""
        self.segments: list[Payload] = list(segments)

    @property
    def nbytes(self) -> int:
        """Bytes reserved, counting a tensor that is both keys and values once."""
        return sum(tensor.nbytes for segment in self.segments for tensor in _distinct(segment))

    def reserve(self, payload: Payload, segments: Sequence[Segment]) -> None:
        """Allocates the segments that are missing.

        Args:
            payload: rows like those to be kept, [..., kv_heads, width] each.
            segments: the segments of the tree.
        """
        for segment in segments[len(self.segments) :]:
            self.segments.append(_allocate(payload, segment))

    def write(
        self, payload: Payload, mappings: Sequence[SlotMapping], segments: Sequence[Segment]
    ) -> None:
        """Stores the rows of one step.

        Args:
            payload: [G * B, kv_heads, width] each.
            mappings: where they go.
            segments: the segments of the tree; missing ones are allocated.
        """
        self.reserve(payload, segments)
        for mapping in mappings:
            kept = self.segments[mapping.segment]
            for stored, rows in zip(_distinct(kept), _distinct(payload), strict=True):
                source = rows if mapping.source is None else rows[mapping.source]
                # A view, never a copy: `flatten` would write into a copy of strided rows.
                stored.view(-1, *stored.shape[2:]).index_copy_(0, mapping.slots, source)

    def fill(self, payload: Payload, columns: Tensor, width: int) -> None:
        """Stores some columns of the first segment; the whole of it is taken over without a copy.

        Args:
            payload: [rows, columns, kv_heads, width] each.
            columns: int64 [columns], which these are.
            width: columns of the segment.
        """
        if len(columns) == width:
            self.segments = [payload]
            return
        if not self.segments:
            whole = [x.new_empty(len(x), width, *x.shape[2:]) for x in _distinct(payload)]
            self.segments = [(whole[0], whole[-1])]
        for stored, part in zip(_distinct(self.segments[0]), _distinct(payload), strict=True):
            stored[:, columns] = part

    def read(self, view: View) -> list[Rows]:
        """Shows the rows of a view, in place.

        Args:
            view: a view of the tree whose segments these are.

        Returns:
            The operand of `el_attention.ops.attend`.
        """
        shown = []
        for (keys, values), (rows, columns) in zip(self.segments, view.segments, strict=False):
            first = _first(keys, rows)
            same = values is keys
            shown.append(Rows(first, first if same else _first(values, rows), columns))
        return shown

    def gather(
        self, segments: Sequence[Segment], sentences: Tensor, kept: Tensor | None = None
    ) -> RowCache:
        """Copies rows into a cache of one segment.

        Args:
            segments: the segments of the tree that the rows lie in.
            sentences: int64 [N], the sentence of each new column.
            kept: int64 [N, rows], the rows each new column keeps; None for all.

        Returns:
            A cache with one segment of [rows, N, kv_heads, width].
        """
        columns = torch.arange(len(sentences), device=sentences.device)

        def copy(tensors: list[Tensor]) -> Tensor:
            number = sum(map(len, tensors))
            rows = tensors[0].new_empty(number, len(sentences), *tensors[0].shape[2:])
            parts = rows.split([len(tensor) for tensor in tensors])
            for part, tensor, segment in zip(parts, tensors, segments, strict=False):
                part.copy_(tensor[:, segment.columns[sentences]])
            # An index with strides of its own would give its strides to the result.
            return rows if kept is None else rows[kept.t().contiguous(), columns]

        keys, values = zip(*self.segments, strict=True)
        new_keys = copy(list(keys))
        return RowCache([(new_keys, new_keys if keys[0] is values[0] else copy(list(values)))])


def _first(tensor: Tensor, rows: int) -> Tensor:
    return tensor if rows == tensor.size(0) else tensor[:rows]


def _distinct(payload: Payload) -> tuple[Tensor, ...]:
    keys, values = payload
    return (keys,) if keys is values else (keys, values)


def _allocate(payload: Payload, segment: Segment) -> Payload:
    # Zeros and not empty memory, which may hold NaN: with that in unseen rows the pure-PyTorch
    # operators are right, but slow.
    tensors = [
        rows.new_zeros(segment.rows, segment.width, *rows.shape[1:]) for rows in _distinct(payload)
    ]
    return tensors[0], tensors[-1]
