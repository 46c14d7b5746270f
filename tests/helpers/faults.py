"""Memory that runs out, wherever a test wants it to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What the allocators of GPU, CPU, Python and C++ say.
ERRORS: dict[str, Callable[[], Exception]] = {
    "GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "Python": MemoryError,
    "C++": lambda: RuntimeError("std::bad_alloc"),
}


class Memory(TorchDispatchMode):
    """Counts allocations of tensors, and fails at one of them or at all that are large.

    Attributes:
        allocations: so far, in the stage.
        failures: so far.
        largest: bytes, of the allocations that did not fail.
    """

    def __init__(
        self,
        fail_at: int | None = None,
        limit: int | None = None,
        stage: tuple[str, str] | None = None,
        error: str = "CPU",
    ) -> None:
        """Says what fails.

        Args:
            fail_at: number of the allocation that fails, once; None for none.
            limit: bytes; every allocation above fails.
            stage: file and function; what is inside of it counts and fails, and only that: all
                operators, since those that return nothing new may need memory for themselves.
            error: a key of `ERRORS`.
        """
        super().__init__()
        self.allocations = self.failures = self.largest = 0
        self._fail_at, self._limit, self._stage, self._error = fail_at, limit, stage, error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._stage and not inside(*self._stage):
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        new = [x for x in tree_leaves(result) if isinstance(x, Tensor) and storage(x) not in given]
        size = sum(x.untyped_storage().nbytes() for x in new)
        if self._stage or size:
            too_large = self._limit is not None and size > self._limit
            if too_large or self.allocations == self._fail_at:
                self._fail_at = None
                self.failures += 1
                raise ERRORS[self._error]()
            self.allocations += 1
            self.largest = max(self.largest, size)
        return result


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def inside(file: str, function: str) -> bool:
    """Whether a function of a file is being executed."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == function and frame.f_code.co_filename.endswith("/" + file):
            return True
    return False
