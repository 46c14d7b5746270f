"""Models that `torch.compile` has wrapped, and generation under autocast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import el_attention
from el_attention.fairseq_plugin.decoder import ELDecoder
from families import SYMBOLS, arguments_of, model_of
from tiny import assert_same, batch, generator_of

OPTIONS = {"beam": 3, "max_len_b": 9}


@pytest.mark.parametrize("wrap", ["the generator", "the model"])
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_a_model_that_was_compiled_generates_as_the_original(family, wrap) -> None:
    sample, arguments = batch(SYMBOLS, (6, 3, 2, 4)), arguments_of(family)
    expected = generator_of([model_of(family)], SYMBOLS, OPTIONS)
    compiled = torch.compile(copy.deepcopy(model_of(family)), backend="eager")
    if wrap == "the model":
        assert el_attention.convert(compiled) is compiled
    generator = el_attention.convert(generator_of([compiled], SYMBOLS, OPTIONS))
    assert isinstance(generator.model.models[0].decoder, ELDecoder)
    assert_same(
        expected.generate(None, sample, **arguments), generator.generate(None, sample, **arguments)
    )


def test_a_model_in_a_wrapper_for_several_devices_is_converted() -> None:
    wrapped = nn.DataParallel(copy.deepcopy(model_of("transformer")))
    assert el_attention.convert(wrapped) is wrapped
    assert isinstance(wrapped.module.decoder, ELDecoder)
    sample = batch(SYMBOLS, (6, 3, 2, 4))
    expected = generator_of([model_of("transformer")], SYMBOLS, OPTIONS).generate(None, sample)
    generator = el_attention.convert(generator_of([wrapped.module], SYMBOLS, OPTIONS))
    assert_same(expected, generator.generate(None, sample))


def test_a_wrapped_model_that_is_none_of_fairseqs_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="got Linear"):
        el_attention.convert(nn.DataParallel(nn.Linear(2, 2)))


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_generation_under_autocast_is_that_of_stock(family, caplog) -> None:
    sample, arguments = batch(SYMBOLS, (6, 3, 2, 4)), arguments_of(family)
    stock = generator_of([model_of(family)], SYMBOLS, OPTIONS)
    ours = el_attention.convert(generator_of([model_of(family)], SYMBOLS, OPTIONS))
    with torch.autocast("cpu", torch.bfloat16), caplog.at_level("INFO"):
        expected = stock.generate(None, sample, **arguments)
        assert_same(expected, ours.generate(None, sample, **arguments))
    assert caplog.text.count("because autocast") == 1
