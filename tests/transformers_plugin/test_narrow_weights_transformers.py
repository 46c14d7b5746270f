"""Transformers' models whose weights are 16-bit numbers, read as float32."""

from __future__ import annotations

import copy

import pytest
import torch

import el_attention
from el_attention.decoder import NarrowWeights
from el_attention.ops import extension
from transformers_models import PLANS, assert_same, assert_served, build, generated, inputs

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("name", "dtype"), [("bart", torch.float16), ("gpt2", torch.bfloat16), ("t5", torch.float16)]
)
def test_generation_has_the_bits_of_float32_weights(name, dtype, plan, monkeypatch):
    stock = build(name, dtype).float()
    ours = el_attention.convert(copy.deepcopy(stock), plan)
    arguments = inputs(stock)
    found = generated(ours, arguments, num_beams=4)
    assert_served(ours)
    assert_same(generated(stock, arguments, num_beams=4), found, 1e-4)
    monkeypatch.setattr(NarrowWeights, "added_to", lambda self, spec: spec)
    assert_same(generated(ours, arguments, num_beams=4), found, 0.0)


def test_weights_that_change_between_generations_count_as_they_are():
    stock = build("bart", torch.bfloat16).float()
    ours = el_attention.convert(copy.deepcopy(stock), "shared-projection")
    arguments = inputs(stock)
    before = generated(ours, arguments, num_beams=3)
    for model in (stock, ours):
        model.half().float()
        model.model.decoder.layers[0].fc1.weight.data.mul_(-4.0)
    found = generated(ours, arguments, num_beams=3)
    assert not torch.equal(found.logits[0], before.logits[0])
    assert_same(generated(stock, arguments, num_beams=3), found, 1e-4)
