"""A whole decode of a small model in 16 bits, whose attentions are for tensor cores."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from el_attention.attention import Planner
from el_attention.cost import Architecture, Stack
from el_attention.decoder import Decoding
from el_attention.ops import extension
from el_attention.state import Source
from random_decoder import VOCAB_SIZE, Shape, random_decoder

HALVES = (torch.float16, torch.bfloat16)
SENTENCES, BEAM, STEPS, SOURCE = 3, 4, 7, 19
# Widths in multiples of 8 and one kv head: what tensor cores take.
SHAPE = Shape(heads=4, head_width=16, layers=2, pre_norm=True, source=64, width=64)
PLANNER = Planner(
    "expanded-query", Architecture("tiny", Stack(2, 64, 10, 4), Stack(2, 64, 10, 4), VOCAB_SIZE)
)


def decoded(dtype: torch.dtype, device: str = "cpu", exact: bool = False) -> Tensor:
    """Logits [STEPS, SENTENCES * BEAM, V] in float64, on the CPU.

    Beams are reordered after every step, and one sentence has a source of its own length.

    Args:
        dtype: of parameters and source.
        device: where they are.
        exact: to compute in float64, with the same parameters.
    """
    spec = random_decoder(SHAPE, dtype, device=device)
    random = torch.Generator().manual_seed(1)
    states = torch.randn(SOURCE, SENTENCES, SHAPE.source, generator=random).to(dtype)
    is_padding = torch.zeros(SENTENCES, SOURCE, dtype=torch.bool)
    is_padding[1, 11:] = True
    if exact:
        spec = widened(spec)
        states = states.double()
    source = Source(states.to(device), is_padding.to(device))
    decoding = Decoding(spec, PLANNER, SENTENCES, BEAM, source)
    logits = []
    for step in range(STEPS):
        tokens = torch.randint(VOCAB_SIZE, (SENTENCES * BEAM,), generator=random)
        hidden = decoding.step(tokens.to(device), step).hidden
        assert spec.output is not None
        logits.append(spec.output(hidden).cpu().double())
        parents = torch.randint(BEAM, (SENTENCES, BEAM), generator=random)
        order = (torch.arange(SENTENCES)[:, None] * BEAM + parents).flatten()
        decoding.reorder(order.to(device))
    return torch.stack(logits)


def widened(part: Any) -> Any:
    """A spec with its numbers in float64."""
    if isinstance(part, Tensor):
        return part.double()
    if isinstance(part, tuple):
        return tuple(widened(x) for x in part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = [field.name for field in dataclasses.fields(part) if field.init]
        return dataclasses.replace(part, **{name: widened(getattr(part, name)) for name in fields})
    return part


def assert_as_good_as_pytorch(found: Tensor, dtype: torch.dtype) -> None:
    """The error against float64 is at most twice that of PyTorch's operators in the dtype.

    Raises:
        AssertionError: if it is larger.
    """
    exact = decoded(dtype, exact=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "unsupported", "not built: PyTorch is asked")
        plain = decoded(dtype)
    allowed = 2 * (plain - exact).abs().max()
    assert allowed > 0
    error = (found - exact).abs().max()
    assert error <= allowed, f"{error:.3g} against {allowed:.3g}"


class AttendCalls(TorchDispatchMode):
    """Collects dtype, kv heads, and whether keys are values, of calls of the compiled `attend`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.dtype, int, bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.el_attention.attend.default:
            query, keys, values = args[:3]
            same = all(k.data_ptr() == v.data_ptr() for k, v in zip(keys, values, strict=True))
            self.calls.append((query.dtype, keys[0].size(2), same))
        return function(*args, **(kwargs or {}))
