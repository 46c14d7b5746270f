"""The compiled operators, with the interface of `el_attention.ops.reference`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from el_attention.ops import extension, trust
from el_attention.ops.reference import Attended, Rows, check_devices

if extension.unsupported is None:
    from el_attention.ops import fakes  # noqa: F401

# kMaxSegments in csrc/sizes.h.  Fewer, down to a single one that grows by copying, were not faster,
# and the copies needed memory at the peak.
MAX_SEGMENTS = 16
MAX_CANDIDATES = 512  # kMaxCandidates
DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}
TRIED = ("cuda",)  # devices whose operators are tried first, `el_attention.ops.trust`
FEW_ROWS = 256  # kMostRows in csrc/cpu/linear.h: up to here it beats the BLAS or equals it
NARROW_ROWS = 8  # kFewRows in csrc/cpu/linear.h: for more, widening takes longer
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def unsupported(
    states: Tensor,
    rows: Sequence[Rows] = (),
    dropout_mask: Tensor | None = None,
    others: Sequence[Tensor] = (),
    operators: Sequence[str] = ("attend",),
) -> str | None:
    """Tells whether the compiled operators can take the arguments of one of them.

    Args:
        states: the query, or any tensor of its device and dtype.
        rows: segments of the row axis.
        dropout_mask: factors on the weights.
        others: the other tensors of which there might be a derivative.
        operators: names of those that are to be called, which a GPU must have shown to be right.

    Returns:
        Why not, or None if they can.
    """
    if extension.unsupported is not None:
        return f"the compiled ones are {extension.unsupported}"
    device = states.device.type
    if device not in DISPATCH_KEYS:
        return f"there are no compiled ones for {device}"
    key = DISPATCH_KEYS[device]
    if not _built_for(key):
        return f"the compiled ones were built without {key}"
    if device == "cpu" and not _instruction_set():
        return "the compiled ones need AVX2, which torch does not find here"
    if states.dtype not in DTYPES:
        return f"the compiled ones do not take {states.dtype}"
    if device in TRIED and (reason := _distrust(operators, states.device, states.dtype)):
        return f"the compiled ones are {reason}"
    if dropout_mask is not None:
        return "the compiled ones do not drop weights"
    if len(rows) > MAX_SEGMENTS:
        return f"the compiled ones take {MAX_SEGMENTS} segments of rows, not {len(rows)}"
    segments = (tensor for segment in rows for tensor in (segment.keys, segment.values))
    if _needs_derivative(states, *segments, *others):
        return "the compiled ones have no gradient"
    return None


def _needs_derivative(*tensors: Tensor) -> bool:
    """Tells whether a tensor asks for a gradient, or carries the tangent of forward mode."""
    reverse = torch.is_grad_enabled()
    return any(
        (reverse and tensor.requires_grad) or forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    )


@cache
def _built_for(key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key("el_attention::attend", key))


def _distrust(operators: Sequence[str], device: torch.device, dtype: torch.dtype) -> str | None:
    return trust.GPUS.unsupported(operators, device, dtype)


# What torch.compiler.assume_constant_result does, which would import the compiler: a second and
# 64 MiB for every generation.
_distrust._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _instruction_set() -> str:
    return importlib.import_module("el_attention._C").build_information()["instruction_set"]


def runs_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Tells whether the compiled `linear` can take the arguments, and is faster than torch's."""
    return (
        extension.unsupported is None
        and x.is_cpu
        and _instruction_set() != ""
        and x.dtype in DTYPES
        and (x.dtype == weight.dtype or is_narrow(x, weight))
        and x.numel() <= FEW_ROWS * x.size(-1)
        # Else torch's own product takes it as it lies, and the compiled one a copy.
        and (weight.stride(-1) == 1 or (weight.stride(0) == 1 and is_bound_by_reading(x)))
        and not _needs_derivative(x, weight, *(() if bias is None else (bias,)))
    )


def is_narrow(x: Tensor, weight: Tensor) -> bool:
    """Tells whether a linear layer of x widens its weight."""
    return x.dtype == torch.float32 and x.is_cpu and weight.dtype in (torch.float16, torch.bfloat16)


def is_bound_by_reading(x: Tensor) -> bool:
    """Tells whether a linear layer of x [..., I] takes the time of reading its weight."""
    return x.numel() <= NARROW_ROWS * x.size(-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Applies a linear layer where `runs_linear` is true; a float32 weight may be in 16 bits."""
    if x.dim() == 2:
        return torch.ops.el_attention.linear(x, weight, bias)
    output = torch.ops.el_attention.linear(x.reshape(-1, x.size(-1)), weight, bias)
    return output.view(*x.shape[:-1], weight.size(0))


def attend(
    query: Tensor,
    rows: Sequence[Rows],
    visible: Tensor | None,
    *,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    need_weights: bool = True,
) -> Attended:
    """Attends to rows where `unsupported` returns None; see `reference.attend`."""
    check_devices({"query": query, "sinks": sinks})
    keys, columns = [p.keys for p in rows], [p.columns for p in rows]
    same = all(segment.values is segment.keys for segment in rows)
    values = keys if same else [segment.values for segment in rows]
    context, lse = torch.ops.el_attention.attend(query, keys, values, columns, visible, bias)
    weights = None
    if need_weights:
        weights = torch.ops.el_attention.weights(query, keys, columns, visible, bias, lse)
    if sinks is None:
        mass = None
        sees_all = (
            visible is None and bias is None and any(segment.keys.size(0) for segment in rows)
        )
        if not sees_all:
            mass = lse.ne(-math.inf).to(lse.dtype).unsqueeze(-1)  # 0 where a query sees nothing
        return Attended(context, weights, lse.new_empty(*lse.shape, 0), mass)
    # Softmax over rows and sinks together: what the rows had alone shrinks by their share.
    scores = sinks.to(lse.dtype)
    total = torch.logaddexp(lse, scores.logsumexp(-1)).unsqueeze(-1)
    mass = (lse.unsqueeze(-1) - total).exp()
    sink_weights = (scores - total).exp()
    if weights is not None:
        weights = torch.cat([weights * mass, sink_weights], -1)
    return Attended(context * mass.to(context.dtype), weights, sink_weights, mass)
