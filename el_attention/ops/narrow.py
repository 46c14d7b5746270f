"""Float32 weights in 16 bits, where that loses nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from el_attention.ops import compiled

NARROW_DTYPES = (torch.float16, torch.bfloat16)


def narrowed(weight: Tensor, known: Tensor | None = None) -> Tensor | None:
    """Returns a weight in 16 bits, where it has the same bits when it is widened again.

    Args:
        weight: float32 [O, I], of any strides, on a CPU.
        known: what an earlier call has returned, for a weight that may have changed since; or None.

    Returns:
        [O, I], float16 or else bfloat16, by output or by input as the weight lies; `known` itself,
        if it is just that; None if neither of them has all values.
    """
    weight = weight.detach()
    if known is not None and known.shape == weight.shape and _is_widened(weight, known):
        return known
    middle = weight[len(weight) // 2 :][:1]  # where most weights show what they are; not padding's
    for dtype in NARROW_DTYPES:
        if _is_widened(middle, middle.to(dtype)):
            narrow = _converted(weight, dtype)
            if _is_widened(weight, narrow):
                return narrow
    return None


def _converted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts [O, I]; what lies by input does so afterwards."""
    if weight.stride(0) == 1 != weight.stride(1):
        return _converted(weight.t(), dtype).t()
    return weight.to(dtype, memory_format=torch.contiguous_format)


def _is_widened(weight: Tensor, narrow: Tensor) -> bool:
    """Tells whether `narrow` has the bits of `weight` in float32."""
    if weight.stride(0) == 1 != weight.stride(1):  # the operator reads rows
        weight, narrow = weight.t(), narrow.t()
    if compiled.unsupported(weight) is None:
        return bool(torch.ops.el_attention.is_widened(weight, narrow))
    # As integers: 0 and -0 differ.
    return torch.equal(weight.view(torch.int32), narrow.float().view(torch.int32))
