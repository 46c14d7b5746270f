"""What a corpus would take, by the cost model: time, memory, padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from el_attention.attention import best, candidates, largest_batch_in, plans_of
from el_attention.corpus.engine import LARGEST_BATCH
from el_attention.corpus.run import WINDOW
from el_attention.corpus.source import Source
from el_attention.cost import Architecture, Device, Rates, Workload

# A token of English text, as tokenizers of subwords cut it.
CHARACTERS_PER_TOKEN = 4
_STEP = 16  # lengths are rounded up to multiples of it


@dataclass(frozen=True)
class Forecast:
    """An estimate.

    Attributes:
        rows: that have a text.
        tokens: the tokens of all rows.
        padded: tokens with the padding of the batches.
        in_order: tokens with the padding of batches of the same sizes in the order of the file.
        seconds: the time of one worker for all rows.
        peak: bytes of the largest batch, weights not included.
    """

    rows: int
    tokens: int
    padded: int
    in_order: int
    seconds: float
    peak: float


def lengths_of(source: Source) -> Iterator[int]:
    """Yields the length in tokens of each text that is not empty, guessed by its characters.

    Raises:
        ImportError, OSError, ValueError: see `Source.rows`.
    """
    for row in source.rows():
        if isinstance(row.text, str) and row.text:
            yield -(-len(row.text) // CHARACTERS_PER_TOKEN)


def forecast(
    lengths: Iterable[int],
    arch: Architecture,
    load: Workload,
    device: Device,
    rates: Rates,
    available: float,
) -> Forecast:
    """Estimates a run over a corpus with one worker.

    Args:
        lengths: tokens of each row, in their order.
        arch: the model.
        load: what is generated for a row; its batch and source do not matter.
        device: what it runs on.
        rates: what software reaches of the device.
        available: bytes for states and temporaries.
    """

    @cache
    def largest(length: int) -> int:
        sized = replace(load, source=length)
        chosen = best(candidates(arch, sized, device, rates), available)
        plans = plans_of(chosen.expanded, device)
        return max(1, largest_batch_in(arch, plans, sized, available, LARGEST_BATCH))

    @cache
    def cost(length: int, batch: int) -> tuple[float, float]:
        sized = replace(load, source=length, batch=batch)
        chosen = best(candidates(arch, sized, device, rates), available)
        return chosen.seconds, chosen.peak_bytes

    rows = tokens = padded = in_order = 0
    seconds = peak = 0.0
    for window in _windows(iter(lengths)):
        rows, tokens = rows + len(window), tokens + sum(window)
        left = sorted(window, reverse=True)
        first = 0
        while first < len(left):
            length = -(-left[first] // _STEP) * _STEP
            batch = left[first : first + largest(length)]
            padded += batch[0] * len(batch)
            in_order += max(window[first : first + len(batch)]) * len(batch)
            took, bytes_ = cost(length, len(batch))
            seconds, peak = seconds + took, max(peak, bytes_)
            first += len(batch)
    return Forecast(rows, tokens, padded, in_order, seconds, peak)


def _windows(lengths: Iterator[int]) -> Iterator[Sequence[int]]:
    while window := list(islice(lengths, WINDOW)):
        yield window
