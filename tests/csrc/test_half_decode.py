"""A whole decode in 16 bits with every attention by the CUDA kernels for tensor cores, emulated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from el_attention.ops import extension
from emulated import Emulation, plan_of
from emulator_build import require
from half_decode import HALVES, STEPS, assert_as_good_as_pytorch, decoded
from one_by_one import take_operators_one_by_one
from oracle import Call

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


class Kernels:
    """`attend` by the kernel that the launcher chooses; other operators as compiled."""

    def __init__(self) -> None:
        self.compiled = torch.ops.el_attention
        self.tensor_cores: list[bool] = []

    def attend(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        result = Emulation("a100").attend(Call(*arguments))
        self.tensor_cores.append(plan_of(result).tensor_cores)
        return result["context"], result["lse"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.compiled, name)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_decode_on_emulated_tensor_cores_is_as_good_as_pytorchs(monkeypatch, dtype) -> None:
    require()
    kernels = Kernels()
    monkeypatch.setattr(torch.ops, "el_attention", kernels)
    take_operators_one_by_one(monkeypatch)
    found = decoded(dtype)
    monkeypatch.undo()
    assert kernels.tensor_cores == [True] * (2 * 2 * STEPS)  # self- and cross-attention, 2 layers
    assert_as_good_as_pytorch(found, dtype)
