"""The linear layers of a converted decoder."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import el_attention
from el_attention.ops import extension
from families import SYMBOLS, generate, model_of
from tiny import assert_same


class Recorder(TorchDispatchMode):
    """Records the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)
def test_a_step_computes_every_linear_layer_by_the_operator():
    # The other plan takes the projections of keys and values apart.
    model = el_attention.convert(copy.deepcopy(model_of("lm")), "shared-projection")
    tokens = torch.full((3, 1), SYMBOLS.eos())
    with torch.no_grad(), Recorder() as recorder:
        model.decoder(tokens, incremental_state={})
    layers = sum(isinstance(module, nn.Linear) for module in model.decoder.modules())
    assert recorder.names.count("el_attention.linear.default") == layers
    assert not {"aten.addmm.default", "aten.mm.default"} & set(recorder.names)


def test_layers_keep_names_parameters_and_survive_a_copy():
    stock = model_of("transformer")
    converted = el_attention.convert(copy.deepcopy(stock))
    assert list(converted.state_dict()) == list(stock.state_dict())
    layer = copy.deepcopy(converted).decoder.layers[0].fc1
    assert type(layer) is nn.Linear
    original = stock.decoder.layers[0].fc1
    x = torch.randn(5, original.in_features)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), original(x))


def test_scoring_is_fairseqs_to_the_last_bit_after_a_generation_too():
    stock = model_of("lm")
    ours = el_attention.convert(copy.deepcopy(stock))
    tokens = torch.full((3, 4), SYMBOLS.eos())
    with torch.no_grad():
        expected, _ = stock.decoder(tokens)
        ours.decoder(tokens[:, :1], incremental_state={})
        assert torch.equal(ours.decoder(tokens)[0], expected)


@pytest.mark.parametrize("path", ("output_projection", "layers.0.fc1", "layers.1.self_attn.q_proj"))
def test_layers_are_fairseqs_to_the_last_bit_after_a_generation(path):
    stock = model_of("lm")
    ours = el_attention.convert(copy.deepcopy(stock))
    generate([ours], "lm", plan="auto")
    with torch.no_grad():
        ours.decoder(torch.full((3, 1), SYMBOLS.eos()), incremental_state={})
    expected, layer = stock.decoder.get_submodule(path), ours.decoder.get_submodule(path)
    x = torch.randn(5, layer.in_features)
    assert torch.equal(layer(x), expected(x))
    tangent = torch.randn_like(x)
    for got, want in zip(
        torch.func.jvp(layer, (x,), (tangent,)),
        torch.func.jvp(expected, (x,), (tangent,)),
        strict=True,
    ):
        assert torch.equal(got, want) and want.abs().sum() > 0
    layer(x).sum().backward()
    expected_gradient = torch.autograd.grad(expected(x).sum(), expected.weight)[0]
    assert torch.equal(layer.weight.grad, expected_gradient)


@pytest.mark.parametrize("name", ("fc1", "fc2", "output_projection"))
def test_hooks_act_as_in_stock_fairseq(name):
    model = copy.deepcopy(model_of("transformer"))
    layer = model.decoder if name == "output_projection" else model.decoder.layers[0]
    getattr(layer, name).register_forward_hook(lambda module, args, output: 1.5 * output)
    stock = generate([model], "transformer")
    assert stock[0][0]["score"] != generate([model_of("transformer")], "transformer")[0][0]["score"]
    assert_same(stock, generate([model], "transformer", plan="auto"))


def test_layers_that_are_something_else_stay_what_they_are():
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = copy.deepcopy(model_of("transformer"))
    model.decoder.layers[0].fc1.__class__ = Doubled
    el_attention.convert(model)
    assert type(model.decoder.layers[0].fc1) is Doubled
