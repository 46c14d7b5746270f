"""TorchScript of converted objects: that of fairseq's own, without a change of the converted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import el_attention
from families import SYMBOLS, model_of
from tiny import assert_same, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

OPTIONS = {"beam": 3, "max_len_b": 8, "no_repeat_ngram_size": 2}


def inputs() -> dict[str, dict[str, Tensor]]:
    return {"net_input": batch(SYMBOLS, [5, 3])["net_input"]}


def classes(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules()]


@pytest.mark.parametrize("family", ["transformer", "bart"])
def test_a_scripted_generator_is_that_of_stock(family: str) -> None:
    stock = generator_of([model_of(family)], SYMBOLS, OPTIONS)
    ours = el_attention.convert(copy.deepcopy(stock))
    before = classes(ours)
    scripted: Any = torch.jit.script(ours)
    expected: Any = torch.jit.script(stock)
    assert_same(expected(inputs()), scripted(inputs()))
    assert classes(ours) == before and ours.model.beam == 3
    assert_same(
        el_attention.convert(generator_of([model_of(family)], SYMBOLS, OPTIONS)).generate(
            None, inputs()
        ),
        ours.generate(None, inputs()),
    )


@pytest.mark.parametrize(
    ("family", "part"),
    [("transformer", "encoder"), ("bart", "decoder"), ("lm", "decoder")],
)
def test_scripted_parts_of_a_model_are_those_of_stock(family: str, part: str) -> None:
    ours = el_attention.convert(copy.deepcopy(model_of(family)))
    before = classes(ours)
    scripted = torch.jit.script(ours.get_submodule(part))
    assert classes(ours) == before
    stock = torch.jit.script(copy.deepcopy(model_of(family)).get_submodule(part))
    for (name, got), (_, want) in zip(
        scripted.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(got, want), name


def test_what_stock_cannot_script_gives_the_error_of_stock() -> None:
    errors = []
    for convert in (False, True):
        model = copy.deepcopy(model_of("lm"))
        with pytest.raises(torch.jit.frontend.NotSupportedError) as caught:
            torch.jit.script(el_attention.convert(model) if convert else model)
        errors.append(str(caught.value).splitlines()[0])
    assert errors[0] == errors[1]
