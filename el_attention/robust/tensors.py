"""Tensors as JSON, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from el_attention.robust.memory import is_out_of_memory

_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if type(d) is torch.dtype}


def to_json(value: Any) -> Any:
    """Writes a value with tensors in it as JSON; tensors keep dtype, shape and exact values."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(value.shape), "values": value.flatten().tolist()}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any, device: torch.device) -> Any:
    """Reads what `to_json` wrote; tensors are made on `device`.

    Raises:
        ValueError: if a tensor is not what `to_json` writes.
    """
    if isinstance(value, Mapping):
        if value.keys() == {"dtype", "shape", "values"}:
            return _tensor(value["dtype"], value["shape"], value["values"], device)
        return {key: from_json(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item, device) for item in value]
    return value


def _tensor(dtype: Any, shape: Any, values: Any, device: torch.device) -> Tensor:
    try:
        return torch.tensor(values, dtype=_DTYPES[dtype], device=device).view(shape)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__} {error}"
        raise ValueError(f"a tensor of dtype {dtype!r} and shape {shape!r}: {reason}") from error
