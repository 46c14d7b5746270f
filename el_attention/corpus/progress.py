"""How far a run is: rows, their rate, the time that remains, free memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

import torch

from el_attention.robust.memory import free_bytes, in_units

_INTERVAL = 10.0  # seconds between two lines; on a terminal a line replaces the one before
_ON_TERMINAL = 0.5


class Progress:
    """Writes lines such as `1,200 of 5,000 rows, 31 rows/s, 2 min left, 3.1 GiB free`."""

    def __init__(
        self,
        file: TextIO | None,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to measure.

        Args:
            file: where the lines go; None for nowhere.
            total: number of rows, as far as it is known.
            clock: returns seconds, and never goes back.
        """
        self._file, self._total, self._clock = file, total, clock
        self._rows = self._earlier = 0
        self._terminal = file is not None and file.isatty()
        self._start = self._last = clock()

    def skip(self, rows: int) -> None:
        """Counts rows that were finished before, which say nothing about the rate."""
        self._rows += rows
        self._earlier += rows

    def add(self, rows: int) -> None:
        """Counts rows, and writes a line now and then."""
        self._rows += rows
        now = self._clock()
        if now - self._last >= (_ON_TERMINAL if self._terminal else _INTERVAL):
            self._last = now
            self._write(now)

    def close(self) -> None:
        """Writes the last line."""
        self._write(self._clock())
        if self._file is not None and self._terminal:
            self._file.write("\n")

    def _write(self, now: float) -> None:
        if self._file is None:
            return
        parts = [f"{self._rows:,} of {max(self._rows, self._total):,} rows"]
        done, seconds = self._rows - self._earlier, now - self._start
        if done and seconds > 0:
            rate = done / seconds
            parts.append(f"{rate:,.3g} rows/s")
            if self._rows < self._total:
                parts.append(f"{duration((self._total - self._rows) / rate)} left")
        device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
        parts.append(f"{in_units(free_bytes(device))} free")
        line = ", ".join(parts)
        self._file.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._file.flush()


def duration(seconds: float) -> str:
    """Writes a time for people: 45 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
