"""Memory that this process may still take, and errors that say it took too much."""

from __future__ import annotations

import ctypes
import gc
import logging
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from el_attention.robust.cgroup import left_by_groups

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What PyTorch's allocator for the CPU, C++, CUDA, cuBLAS and oneDNN (which compiles code for each
# shape) say in a plain RuntimeError. oneDNN's other errors name more than a primitive or memory.
# Python raises a SystemError where it has no memory for a MemoryError.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|DefaultCPUAllocator: not enough memory|std::bad_alloc"
    r"|CUDA (driver )?error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|^could not create a (primitive|memory( object)?)$"
)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_LIMIT = 2**63  # what PyTorch and the operating system count bytes with
_SIZE = re.compile(r"([\d.]+)\s*([kmg]i?)?b?", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """Reads a size: a number of bytes, or one with a unit: 12GiB, 1.5G, 800 MB.

    Raises:
        ValueError: if it is no positive size.
    """
    match = _SIZE.fullmatch(text.strip())
    try:
        size = float(match[1]) * _UNITS[(match[2] or "").lower()] if match else 0
    except ValueError:
        size = 0
    if not 1 <= size < _LIMIT:
        shown = text if len(text) <= 40 else f"{text[:40]}... ({len(text)} characters)"
        raise ValueError(
            f"memory: expected a size such as 12GiB or 800MB, below 2**63 bytes, got {shown!r}"
        )
    return int(size)


def in_units(size: float) -> str:
    """Writes a number of bytes for people: 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def free_bytes(device: torch.device) -> int:
    """Returns the bytes that this process can still allocate on `device`.

    On a GPU, what the driver and PyTorch's cache have left. On a CPU (Linux), the least of what
    the machine has available and what the limits of the process and of its control groups leave;
    swap does not count.

    Raises:
        RuntimeError: if the machine does not say what it has available.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    available = _field("/proc/meminfo", "MemAvailable")
    if available is None:
        raise RuntimeError(f"memory: cannot tell how much is free on {device}; give a budget")
    return max(0, min(available, *_left_by_limits()))


def release() -> None:
    """Frees what nothing refers to any more, PyTorch's cache on a GPU included."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trim_heap() -> None:
    """Gives the system what the C library keeps of freed memory, if that is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, SystemError):
        return str(error) == "error return without exception set"
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def with_room(work: Callable[[], T]) -> T:
    """Works; if memory does not suffice, frees what nothing needs and works again, once.

    Args:
        work: leaves nothing behind when it fails.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.warning(f"out of memory: trying again with less in use; {error!r}")
    # Only here: before, the error's traceback held what the attempt had made.
    release()
    return work()


def _left_by_limits() -> Iterator[int]:
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        allowed, _ = resource.getrlimit(limit)
        if allowed == resource.RLIM_INFINITY:
            continue
        used = _field("/proc/self/status", field)
        if used is not None:
            yield allowed - used
    yield from left_by_groups()


def _field(path: str, name: str) -> int | None:
    """A size from a file of proc(5), in bytes."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:")), None)
