"""Tensors on their way between a device and the host.

A step of generation should wait for a device once.  So what the host needs to know goes over in one
transfer, and what it tells the device in another, packed into one tensor of bytes each.  On a CPU
nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_host(device: torch.device) -> bool:
    """Whether tensors of a device are on the host."""
    return device.type == "cpu"


def is_on_host(tensor: Tensor) -> bool:
    """Whether the host can read a tensor without waiting."""
    return is_host(tensor.device)


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Brings tensors of one device to the host: one transfer, for which the host waits."""
    if is_on_host(tensors[0]):
        return tensors
    return _unpacked(_packed(tensors).cpu(), tensors)


def to_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Brings tensors of one place to a device: one transfer, for which the host does not wait."""
    if is_host(device) or not is_on_host(tensors[0]):
        return tensors
    packed = _packed(tensors)
    if device.type == "cuda":  # from other memory the host would wait
        packed = packed.pin_memory()
    return _unpacked(packed.to(device, non_blocking=True), tensors)


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors, uint8 [n], the widest numbers first: so each begins where it may."""
    return torch.cat([tensors[i].flatten().view(torch.uint8) for i in _by_width(tensors)])


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    order = _by_width(like)
    parts = packed.split([like[i].nbytes for i in order])
    found = dict(zip(order, parts, strict=True))
    return tuple(found[i].view(x.dtype).view(x.shape) for i, x in enumerate(like))


def _by_width(tensors: Sequence[Tensor]) -> list[int]:
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].itemsize)
