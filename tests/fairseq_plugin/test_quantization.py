"""Dynamic quantization before and after the conversion: the quantized modules are used."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from fairseq.models import BaseFairseqModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import el_attention
from families import FAMILIES, SYMBOLS, model_of
from random_quantization import ORDERS, PARTS, QuantizationCase
from reproducible import check, few, many
from tiny import PLANS, assert_same, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def quantized(model: BaseFairseqModel) -> BaseFairseqModel:
    """The model with a quantized decoder: fairseq's encoders cannot be quantized."""
    model.decoder = torch.ao.quantization.quantize_dynamic(model.decoder, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in model.decoder.modules())
    return model


@pytest.mark.parametrize("order", ["quantize, convert", "convert, quantize"])
@pytest.mark.parametrize(("family", "beam"), [("transformer", 3), ("pre-norm", 2), ("lm", 1)])
def test_quantized_modules_are_used_as_they_are(family, beam, order, caplog) -> None:
    model, options = model_of(family), {"beam": beam, "max_len_b": 9}
    sample = batch(SYMBOLS, (6, 3))
    stock = generator_of([quantized(copy.deepcopy(model))], SYMBOLS, options)
    expected = stock.generate(None, sample)
    whole = generator_of([model], SYMBOLS, options).generate(None, sample)
    assert expected[0][0]["score"] != whole[0][0]["score"]
    if order == "quantize, convert":
        ours = el_attention.convert(quantized(copy.deepcopy(model)))
    else:
        ours = quantized(el_attention.convert(copy.deepcopy(model)))
    generator = el_attention.convert(generator_of([ours], SYMBOLS, options))
    with caplog.at_level(logging.INFO):
        # Quantization rounds to steps, which turns a difference in the last bit into a larger one.
        assert_same(expected, generator.generate(None, sample), tolerance=1e-4)
    assert "k_proj is a torch.ao.nn.quantized.dynamic.modules.linear.Linear" in caplog.text


CASES = st.builds(
    QuantizationCase,
    family=st.sampled_from([*FAMILIES]),
    plan=st.sampled_from(PLANS),
    order=st.sampled_from(ORDERS),
    parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=4, unique=True).map(tuple),
    more=st.lists(st.sampled_from(PARTS), max_size=2, unique=True).map(tuple),
    half=st.sampled_from([False, False, True]),
    inplace=st.booleans(),
    beam=st.integers(1, 4),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple),
)


@few(25)
@given(CASES)
def test_random_orders_and_parts(case: QuantizationCase) -> None:
    check(case)


@pytest.mark.slow
@many(200)
@given(CASES)
def test_many_random_orders_and_parts(case: QuantizationCase) -> None:
    check(case)
