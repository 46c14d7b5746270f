"""Measures what a generation keeps, and names the machine it ran on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Collection, Iterable
from importlib import metadata
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_OPAQUE = (nn.Module, type, ModuleType, FunctionType, MethodType)


def storages(*roots: object) -> dict[int, int]:
    """Address -> bytes of every distinct tensor storage reachable from `roots`.

    Does not look into modules, functions and classes. Views of one storage count once, and as
    the whole storage: that is what they keep alive.
    """
    found: dict[int, int] = {}
    visited: dict[int, object] = {}
    pending = list(roots)
    while pending:
        item = pending.pop()
        if id(item) in visited or isinstance(item, _OPAQUE):
            continue
        visited[id(item)] = item
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif not isinstance(item, (str, bytes, int, float, complex, bool, type(None))):
            pending.extend(_children(item))
    return found


class Spy:
    """Stands in for a decoder's ``forward`` and records the peak of what is kept between steps.

    Attributes:
        peak: bytes, the largest sum over the steps so far; weights do not count.
    """

    def __init__(self, forward: Callable[..., Any], model: nn.Module) -> None:
        self.peak = 0
        self._forward = forward
        self._model = model

    def __call__(
        self,
        tokens: Tensor,
        encoder_out: dict[str, Any] | None = None,
        incremental_state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Decodes one step, then measures what is kept for the next."""
        result = self._forward(
            tokens, encoder_out=encoder_out, incremental_state=incremental_state, **kwargs
        )
        kept = storages(encoder_out, incremental_state)
        # Looked up again: 16-bit copies of weights are made when a generation begins.
        copies = [getattr(module, "el_narrow", None) for module in self._model.modules()]
        weights = storages(list(self._model.parameters()), list(self._model.buffers()), copies)
        total = sum(size for address, size in kept.items() if address not in weights)
        self.peak = max(self.peak, total)
        return result


def machine() -> dict[str, str]:
    """What measurements are made on and with: processor, GPU if any, memory, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fairseq = metadata.packages_distributions()["fairseq"][0]
    gpu = {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        **gpu,
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", fairseq, "el-attention")},
    }


def _children(item: object) -> Iterable[object]:
    """What `item` holds: elements of a container, attributes of any other object."""
    if isinstance(item, dict):  # what it holds, and not what it would make when it is read
        return [*dict.values(item), *getattr(item, "__dict__", {}).values()]
    if isinstance(item, Collection):
        return item
    slots = (name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ()))
    attributes = (getattr(item, name, None) for name in slots)
    return [*attributes, *getattr(item, "__dict__", {}).values()]
