"""What the log says of modules that are not what they seem."""

from __future__ import annotations

import torch
from torch import nn

from el_attention.plain import unsupported


def test_classes_of_one_name_are_told_apart():
    layer = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    assert unsupported(layer, (nn.Linear,)) == (
        f"is a {type(layer).__module__}.Linear, expected a torch.nn.modules.linear.Linear"
    )


def test_classes_of_different_names_are_named_shortly():
    assert unsupported(nn.Identity(), (nn.Linear,)) == "is a Identity, expected a Linear"
