"""An encoder output that beams share: one copy per sentence, until somebody reads it per beam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    _Dict = object  # a dict is a MutableMapping to type checkers, and has to come before it
else:
    _Dict = dict

EncoderOut = Mapping[str, Sequence[Tensor]]

# The parts that fairseq's encoder reorders, and the axis of their tensors that counts sentences.
SENTENCE_AXIS = {
    "encoder_out": 1,
    "encoder_padding_mask": 0,
    "encoder_embedding": 0,
    "encoder_states": 1,
    "src_tokens": 0,
    "src_lengths": 0,
}


class SharedEncoderOut(MutableMapping[str, Any], _Dict):
    """Reads like fairseq's reordered encoder output, a dict, and keeps one copy per sentence.

    A part is copied per beam when it is read, as fairseq's `reorder_encoder_out` would have.

    Attributes:
        columns: int64 [beams], the sentence of each beam.
    """

    def __init__(self, shared: EncoderOut, columns: Tensor) -> None:
        """Takes over an encoder output, without copying it.

        Args:
            shared: the output of the encoder's `forward`.
            columns: int64 [beams], the sentence of each beam.
        """
        self._shared = {name: shared[name] for name in SENTENCE_AXIS if name in shared}
        self.columns = columns
        self._per_beam: dict[str, Any] = {}
        self._copies: dict[str, list[tuple[Tensor, int]]] = {}  # as they were made

    def reordered(self, order: Tensor) -> SharedEncoderOut:
        """Returns the output for other beams; `order`, int64 [beams], is the old beam of each."""
        new = SharedEncoderOut(self.shared, self.columns[order])
        for name in self._per_beam.keys() & SENTENCE_AXIS.keys() - self.shared.keys():
            new[name] = [x.index_select(SENTENCE_AXIS[name], order) for x in self._per_beam[name]]
        return new

    @property
    def shared(self) -> dict[str, Any]:
        """The output of the encoder, one column per sentence, but for parts that were replaced.

        A part of which a copy was overwritten in place has been replaced, too.
        """
        for name in self._copies.keys() & self._shared.keys():
            now = _versions(self._per_beam[name])
            if any(
                x is not y or a != b
                for (x, a), (y, b) in zip(self._copies[name], now, strict=False)
            ):
                del self._shared[name]
        return self._shared

    @property
    def has_source(self) -> bool:
        """Whether what attentions read is still that of the encoder."""
        return "encoder_out" in self.shared and "encoder_padding_mask" in self.shared

    def is_copy(self, name: str, tensor: Tensor | None) -> bool:
        """Whether `tensor` is a copy per beam that was read of a part, and not replaced."""
        return name in self.shared and any(tensor is x for x in self._per_beam.get(name, ()))

    def __getitem__(self, name: str) -> Any:
        if name not in self._per_beam:
            parts, axis = self._shared[name], SENTENCE_AXIS[name]
            self._per_beam[name] = [x.index_select(axis, self.columns) for x in parts]
            self._copies[name] = _versions(self._per_beam[name])
        return self._per_beam[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._shared.pop(name, None)
        self._per_beam[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._shared.pop(name, None)
        self._per_beam.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._shared, **self._per_beam})

    def __len__(self) -> int:
        return len({**self._shared, **self._per_beam})

    def __or__(self, other: Any) -> Any:
        return {**self} | other

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def copy(self) -> dict[str, Any]:
        """Returns a dict of all parts, copied per beam."""
        return {**self}


def _versions(parts: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
    """Counts how often tensors were written to, which torch does outside of inference mode."""
    return [(part, 0 if part.is_inference() else part._version) for part in parts]
