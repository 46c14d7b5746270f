"""Counts where the host would wait for a GPU, on a machine without one.

Tensors on the CPU stand for those of the device, but for tensors that were copied to the host
(`.cpu()`), that were made without a device, or that were made of such alone.  Reads by the host and
operators whose result has a size that the device decides are counted; tensors of both places in
one operator are refused, as on a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

import el_attention
from el_attention import transfer
from el_attention.decoder import Decoding

FOLDER = el_attention.__path__[0]
# Methods that hand values of a tensor to Python past the operators.
READS = {"tolist", "numpy", "__array__", "cpu"}
# Operators that wait: their result is a number of the host, or its size is.
WAITS = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
FACTORIES = {
    "arange", "as_tensor", "empty", "full", "linspace", "ones", "rand", "randint", "randn",
    "tensor", "zeros",
}  # fmt: skip
COPIED = {"tensor", "as_tensor", "new_tensor"}


@dataclass
class Step:
    """What one step did, or what was before the first one.

    Attributes:
        waits: reads of the device by the host, by file and line.
        copies: copies from pageable memory of the host, for which it waits, too.
        sent: copies for which it does not wait.
    """

    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def totals(self) -> tuple[int, int, int]:
        """The numbers of waits, copies and sent copies."""
        return self.waits.total(), self.copies.total(), self.sent.total()


class _Methods(TorchFunctionMode):
    """Sees the calls from Python."""

    def __init__(self, device: _Device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name, device = getattr(function, "__name__", ""), self._device
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        if name == "pin_memory":
            return tensor
        if name == "to" and any(
            x == "cpu" and isinstance(x, str) for x in (*args, *kwargs.values())
        ):
            name = "cpu"
        if tensor is not None and name in READS and not device.is_on_host(tensor):
            device.note(device.now.waits)
            if name == "cpu":
                return device.on_host(tensor.clone())
        goes = name == "to" and any(isinstance(x, torch.device) for x in (*args, *kwargs.values()))
        if tensor is not None and goes and device.is_on_host(tensor):
            device.note(device.now.sent if kwargs.get("non_blocking") else device.now.copies)
            return device.on_device(tensor.clone())
        if name in ("__getitem__", "__setitem__") and any(
            isinstance(x, list) and not device.is_on_host(args[0]) for x in _parts(args[1])
        ):
            device.note(device.now.copies)
        result = function(*args, **kwargs)
        place = kwargs.get("device")
        if name in FACTORIES and (place is None or isinstance(place, str)):
            if not any(isinstance(x, Tensor) for x in tree_leaves(args)):
                device.on_host(result)
        elif name in COPIED and not any(isinstance(x, Tensor) for x in args[-1:]):
            device.note(device.now.copies)
        return result


class _Device(TorchDispatchMode):
    """Sees the operators, and knows which tensors are on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Step()
        self._host = WeakTensorKeyDictionary()

    def is_on_host(self, tensor: Tensor) -> bool:
        return tensor in self._host

    def on_host(self, tensor: Tensor) -> Tensor:
        self._host[tensor] = True
        return tensor

    def on_device(self, tensor: Tensor) -> Tensor:
        self._host.pop(tensor, None)
        return tensor

    def note(self, counter: Counter[str]) -> None:
        """Counts an event at the line of this package, or else of the framework, that asked."""
        frame: FrameType | None = sys._getframe(1)
        first = None
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(FOLDER) and not file.endswith("/transfer.py"):
                break
            if first is None and file != __file__ and "/torch/" not in file:
                first = frame
            frame = frame.f_back
        frame = frame or first
        assert frame is not None
        place = frame.f_code.co_filename.removeprefix(FOLDER + "/").split("site-packages/")[-1]
        counter[f"{place}:{frame.f_lineno}"] += 1

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        there = [self.is_on_host(x) for x in tensors]
        if not all(there):
            masks = name in INDEXING and any(
                isinstance(x, Tensor) and x.dtype == torch.bool and not self.is_on_host(x)
                for x in args[1]
            )
            if name in WAITS or masks:
                self.note(self.now.waits)
            of_host = [
                x for x, is_there in zip(tensors, there, strict=True) if is_there and x.dim()
            ]
            if of_host and name in INDEXING:
                self.note(self.now.copies)
            elif of_host and name == "copy_":
                self.note(self.now.waits if there[0] else self.now.copies)
            elif of_host:
                raise RuntimeError(f"{name}: got tensors of the device and of the host")
        result = function(*args, **(kwargs or {}))
        if there and all(there):
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self.on_host(x)
        return result


@contextmanager
def watched() -> Iterator[list[Step]]:
    """Counts what happens inside.

    Yields:
        What was before the first step of a `Decoding`, and what each step did.  A step ends where
        the next begins: search and reordering are part of it.
    """
    device = _Device()
    steps = [device.now]
    take = Decoding.step

    def step(self: Decoding, *args: Any, **kwargs: Any) -> Any:
        device.now = Step()
        steps.append(device.now)
        return take(self, *args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Decoding, "step", step))
        stack.enter_context(mock.patch.object(transfer, "is_host", lambda device: False))
        stack.enter_context(mock.patch.object(transfer, "is_on_host", device.is_on_host))
        stack.enter_context(_Methods(device))
        stack.enter_context(device)
        yield steps


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)
