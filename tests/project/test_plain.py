"""What the log says of modules that are not what they seem."""

from __future__ import annotations

import torch
from torch import nn

from el_attention.plain import own_method, unsupported


def test_classes_of_one_name_are_told_apart():
    layer = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    assert unsupported(layer, (nn.Linear,)) == (
        f"is a {type(layer).__module__}.Linear, expected a torch.nn.modules.linear.Linear"
    )


def test_classes_of_different_names_are_named_shortly():
    assert unsupported(nn.Identity(), (nn.Linear,)) == "is a Identity, expected a Linear"


def test_weights_that_are_not_the_numbers_in_their_memory_are_named():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(2, 2).to_sparse())
    assert unsupported(layer, (nn.Linear,)) == (
        "has a weight that is a Parameter of torch.sparse_coo"
    )


def test_methods_put_into_an_object_are_named_if_they_may_compute_something():
    layer = nn.MultiheadAttention(2, 1)
    assert own_method(layer) is None
    layer.extra_repr = str
    assert own_method(layer) is None
    layer.merge_masks = print
    assert own_method(layer) == "merge_masks"
