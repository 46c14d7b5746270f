"""Ensembles, and one generator that serves many batches."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

import el_attention
from crossed import crossed
from families import (
    DEFAULT,
    FAMILIES,
    FEATURES,
    SYMBOLS,
    WITH_ENCODER,
    Feature,
    enliven,
    generate,
    model_of,
)
from tiny import PLANS, assert_same, batch, build, generator_of, prompts


@pytest.mark.parametrize(("plan", "count", "family"), crossed(PLANS, [2, 3], FAMILIES))
def test_ensemble_of_equal_models_with_other_weights(family, count, plan) -> None:
    models = [model_of(family), *(model_of(family, seed) for seed in range(count - 1))]
    stock = generate(models, family)
    alone = generate(models[:1], family)
    assert [s[0]["score"] for s in stock] != [s[0]["score"] for s in alone]
    assert_same(stock, generate(models, family, plan=plan))


@pytest.mark.parametrize("plan", PLANS)
def test_ensemble_of_unlike_models(plan) -> None:
    wide = enliven(build("transformer", SYMBOLS, 2, encoder_embed_dim=32, decoder_layers=2), 2)
    models = [model_of("bart"), wide, model_of("pre-norm")]
    assert_same(generate(models, "bart"), generate(models, "bart", plan=plan))


def test_ensemble_with_a_model_that_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    joined = enliven(build("transformer", SYMBOLS, 3, cross_self_attention=True), 3)
    models = [model_of("transformer"), joined]
    stock = generate(models, "transformer")
    with caplog.at_level(logging.WARNING):
        assert_same(stock, generate(models, "transformer", plan="expanded-query"))
    assert caplog.text.count("cross-self-attention") == 1


@pytest.mark.parametrize("feature", ["sampling", "diverse beams"])
def test_ensemble_with_another_search(feature) -> None:
    for family in ("bart", "lm"):
        models = [model_of(family), model_of(family, 1)]
        stock = generate(models, family, FEATURES[feature])
        assert_same(stock, generate(models, family, FEATURES[feature], "expanded-query"))


# Batches that shrink, grow, have one sentence, need no padding, and come twice.
BATCHES = [[9, 5, 7, 2], [3], [4, 4], [2, 11, 6, 3, 8], [9, 5, 7, 2]]


@pytest.mark.parametrize(("plan", "family"), crossed(PLANS, FAMILIES))
def test_one_generator_serves_many_batches(family, plan) -> None:
    options = DEFAULT.generation_options()
    stock = generator_of([model_of(family)], SYMBOLS, options)
    ours = el_attention.convert(generator_of([model_of(family)], SYMBOLS, options), plan)
    for seed, lengths in enumerate(BATCHES):
        arguments = {}
        if family not in WITH_ENCODER:
            arguments["prefix_tokens"] = prompts(SYMBOLS, lengths[::-1], seed)
        expected = stock.generate(None, batch(SYMBOLS, lengths, seed), **arguments)
        assert_same(expected, ours.generate(None, batch(SYMBOLS, lengths, seed), **arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_in_a_batch_does_not_spoil_the_next(family) -> None:
    feature = Feature({"beam": 3})
    ours = generator_of([model_of(family)], SYMBOLS, feature.generation_options())
    el_attention.convert(ours, "expanded-query")
    arguments = feature.generation_arguments(family)
    wrong = batch(SYMBOLS, [4, 3])
    wrong["net_input"]["src_tokens"][0, 0] = 10_000
    with pytest.raises((IndexError, AssertionError)):
        ours.generate(None, wrong, prefix_tokens=torch.tensor([[10_000], [5]]))
    expected = generate([model_of(family)], family, feature)
    assert_same(expected, ours.generate(None, feature.sample(), **arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_a_converted_model_generates_the_same(family) -> None:
    converted = el_attention.convert(copy.deepcopy(model_of(family)), "expanded-query")
    stock = generate([model_of(family)], family)
    assert_same(stock, generate([converted], family, plan="shared-projection"))
    assert_same(stock, generate([converted], family, plan="expanded-query"))
