"""What is to be generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from el_attention.cost.device import ITEM_BYTES

_PHASES = 10


@dataclass(frozen=True)
class Workload:
    """A batch, its lengths and its dtype.

    Sentences finish evenly between `first_end` and `last_end`, and leave the batch.

    Attributes:
        dtype: the dtype of weights, states and activations.
        batch: sentences, G.
        beam: hypotheses per sentence, B.
        source: tokens of a source or prompt, padding included, S.
        first_end: steps after which the first sentence is finished.
        last_end: steps after which the last one is.
        groups: groups of a diverse beam search; 1 for any other search.
    """

    dtype: str
    batch: int
    beam: int
    source: int
    first_end: int
    last_end: int
    groups: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"dtype: expected one of {[*ITEM_BYTES]}, got {self.dtype!r}")
        if min(self.batch, self.beam, self.source, self.last_end) < 1:
            raise ValueError(f"expected sizes of at least 1, got {self}")
        if not 0 <= self.first_end <= self.last_end:
            raise ValueError(f"expected 0 <= first_end <= last_end, got {self}")

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return ITEM_BYTES[self.dtype]

    @property
    def rows(self) -> int:
        """Hypotheses of the full batch."""
        return self.batch * self.beam

    def with_batch(self, batch: int) -> Workload:
        """Returns the same workload with another number of sentences."""
        return replace(self, batch=batch)

    def phases(self) -> Iterator[tuple[float, float, float]]:
        """Yields (steps, sentences still active, tokens generated before) over the generation."""
        if self.first_end:
            yield self.first_end, self.batch, self.first_end / 2
        tail = self.last_end - self.first_end
        for phase in range(_PHASES if tail else 0):
            middle = (phase + 0.5) / _PHASES
            yield tail / _PHASES, self.batch * (1 - middle), self.first_end + tail * middle
