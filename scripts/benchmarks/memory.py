"""The memory of a cell: how much it may use, how much it used, and whether it ran out."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from el_attention.robust.memory import is_out_of_memory, release

_M_MMAP_THRESHOLD = -3  # of mallopt(3)


class GpuMemory:
    """All that a process allocates on a GPU, weights included."""

    def __init__(self, device: torch.device, limit: float | None) -> None:
        """Limits the process to `limit` bytes, or not."""
        # Not all functions of torch.cuda take a device without index.
        self._index = torch.cuda.current_device() if device.index is None else device.index
        if limit is not None:
            total = torch.cuda.get_device_properties(self._index).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), self._index)

    def start(self) -> None:
        """Nothing more: weights count."""

    def reset_peak(self) -> None:
        """Forgets the peak so far."""
        torch.cuda.reset_peak_memory_stats(self._index)

    def peak(self) -> int:
        """The most bytes that were allocated at a time."""
        return torch.cuda.max_memory_allocated(self._index)


class ProcessMemory:
    """What this process allocates from `start` on.

    The limit is on private writable memory (RLIMIT_DATA), the peak is of what is resident and no
    part of a file, such as the code of libraries: both as Linux counts them.
    """

    def __init__(self, limit: float | None) -> None:
        """Prepares for a limit of `limit` bytes; make it before anything large is allocated."""
        self._limit = limit
        self._held = 0
        if limit is not None:
            # oneDNN keeps the code it compiles for each shape; the heap keeps what lies below a
            # living block, unless it gets a mapping of its own.
            torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**16)

    def start(self) -> None:
        """Limits the process to so many bytes more than it holds now."""
        gc.collect()
        self._held = _status("RssAnon")
        if self._limit is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            allowed = _status("VmData") + int(self._limit)
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))

    def reset_peak(self) -> None:
        """Forgets the peak so far."""
        Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most bytes that were resident at a time, beyond those at the beginning."""
        # There is a peak of all that is resident alone. Files only ever grew.
        return max(0, _status("VmHWM") - _status("RssFile") - self._held)


def memory_of(device: torch.device, limit: float | None) -> GpuMemory | ProcessMemory:
    """The memory that counts on a device, limited to `limit` bytes if given."""
    return GpuMemory(device, limit) if device.type == "cuda" else ProcessMemory(limit)


class Outcome:
    """Whether memory ran out."""

    ran_out = False


@contextmanager
def may_run_out() -> Iterator[Outcome]:
    """Lets a block run out of memory, and frees what it leaves; other errors are raised."""
    outcome = Outcome()
    try:
        yield outcome
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        outcome.ran_out = True
    if outcome.ran_out:  # only here: before, the traceback held the block's tensors
        release()


def _status(field: str) -> int:
    """A size of this process, in bytes; see proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
