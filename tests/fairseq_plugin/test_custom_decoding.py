"""Converted models in decoding loops that are not ours."""

from __future__ import annotations

import copy
from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

import el_attention
from crossed import crossed
from el_attention.state import BeamTree
from families import (
    DEFAULT,
    FAMILIES,
    FEATURES,
    LENGTHS,
    SYMBOLS,
    WITH_ENCODER,
    Feature,
    generate,
    model_of,
)
from tiny import PLANS, TinyTask, assert_same, batch, generator_of, prompts
from walk import assert_walk_agrees, exact, full_forward


def pair(family: str, plan: str) -> tuple[BaseFairseqModel, BaseFairseqModel]:
    """A stock model and a converted one, in float64."""
    model = copy.deepcopy(model_of(family)).double()
    return exact(copy.deepcopy(model)), el_attention.convert(model, plan)


def sources(family: str) -> dict[str, object] | None:
    return batch(SYMBOLS, LENGTHS) if family in WITH_ENCODER else None


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_may_move_between_sentences(family, plan, monkeypatch) -> None:
    answers: list[bool] = []
    accepts = BeamTree.accepts

    def recorded(self: BeamTree, order: Tensor) -> bool:
        answers.append(accepts(self, order))
        return answers[-1]

    monkeypatch.setattr(BeamTree, "accepts", recorded)
    assert_walk_agrees(
        *pair(family, plan), sources(family), sentences=len(LENGTHS), beam=4, steps=12, mix=True
    )
    assert not all(answers), "the tree must have refused some orders"


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("mix", [True, False])
def test_language_model_that_is_not_told_its_beam(mix, plan) -> None:
    assert_walk_agrees(*pair("lm", plan), None, sentences=len(LENGTHS), beam=3, mix=mix, told=False)


@pytest.mark.parametrize("plan", PLANS)
def test_beams_may_move_between_sentences_inside_their_prompts(plan) -> None:
    prompt = prompts(SYMBOLS, [4, 1, 2, 6])
    assert_walk_agrees(*pair("lm", plan), None, sentences=4, beam=3, mix=True, prompt=prompt)


@pytest.mark.parametrize("name", ["beam 1", "beam 5", "sampling", "unordered constraints"])
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_generator_over_a_converted_model(family, name) -> None:
    feature = FEATURES[name]
    generator = generator_of([model_of(family)], SYMBOLS, feature.generation_options())
    el_attention.convert(generator.model.models[0], "expanded-query")
    assert type(generator) is SequenceGenerator
    torch.manual_seed(0)
    ours = generator.generate(None, feature.sample(), **feature.generation_arguments(family))
    assert_same(generate([model_of(family)], family, feature), ours)


def generator_over(model: BaseFairseqModel, beam: int) -> SequenceGenerator:
    """A stock generator over `model` itself, not a copy."""
    options = {**DEFAULT.generation_options(), "beam": beam}
    return TinyTask(SYMBOLS).build_generator([model], Namespace(**options))


def assert_generates(generator: SequenceGenerator, family: str, beam: int) -> None:
    feature = Feature({"beam": beam})
    arguments = feature.generation_arguments(family)
    expected = generate([model_of(family)], family, feature)
    assert_same(expected, generator.generate(None, feature.sample(), **arguments))


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_changes_its_beam(family, ours) -> None:
    model = el_attention.convert(copy.deepcopy(model_of(family)), "expanded-query")
    for beam in (5, 2, 1, 3):
        generator = generator_over(model, beam)
        assert_generates(el_attention.convert(generator) if ours else generator, family, beam)


@pytest.mark.parametrize(("plan", "family"), crossed(PLANS, FAMILIES))
def test_a_model_that_stock_fairseq_used_before_is_converted(family, plan) -> None:
    """Stock BART never forgets the beam it was told; converted, it does not matter any more."""
    model = copy.deepcopy(model_of(family))
    for beam in (4, 3):
        used = generator_over(model, 4)
        assert_generates(used, family, 4)
        el_attention.convert(model, plan)
        assert_generates(generator_over(model, beam), family, beam)
        assert_generates(el_attention.convert(generator_over(model, beam), plan), family, beam)
        assert_generates(el_attention.convert(used, plan), family, 4)


def test_two_generations_of_one_model_take_turns() -> None:
    _, model = pair("bart", "shared-projection")
    stock, _ = pair("bart", "shared-projection")
    samples = [batch(SYMBOLS, [5, 3], seed=1), batch(SYMBOLS, [4, 6, 2], seed=2)]
    tokens = [torch.full((len(s["id"]), 1), SYMBOLS.eos()) for s in samples]
    states: list[dict[str, object]] = [{}, {}]
    with torch.no_grad():
        encoded = [model.encoder.forward_torchscript(s["net_input"]) for s in samples]
        for _ in range(6):
            for i, sample in enumerate(samples):
                got = model.decoder(tokens[i], encoded[i], states[i])[0]
                expected = full_forward(stock, sample, sample["id"], tokens[i])
                torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
                tokens[i] = torch.cat([tokens[i], got.argmax(-1)], 1)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", WITH_ENCODER)
def test_full_forward_over_a_reordered_encoder_output(family, plan) -> None:
    model, order = copy.deepcopy(model_of(family)), torch.tensor([2, 2, 0, 3, 1, 2])
    tokens = prompts(SYMBOLS, [5] * len(order))

    def outputs() -> Tensor:
        with torch.no_grad():
            encoded = model.encoder.forward_torchscript(DEFAULT.sample()["net_input"])
            encoded = model.encoder.reorder_encoder_out(encoded, torch.tensor([0, 1, 2, 3]))
            return model.decoder(tokens, model.encoder.reorder_encoder_out(encoded, order))[0]

    expected = outputs()
    el_attention.convert(model, plan)
    assert torch.equal(outputs(), expected)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "name",
    ["extract_features", "reorder_incremental_state", "reorder_incremental_state_scripting"],
)
@pytest.mark.parametrize("family", ["bart", "lm"])
def test_methods_of_a_decoder_that_a_user_has_wrapped_are_called(family, name, before) -> None:
    """One that was wrapped before the conversion calls fairseq's, which knows of no states."""
    calls: list[str] = []

    def wrap(generator: SequenceGenerator) -> None:
        decoder: Any = generator.model.models[0].decoder
        inner = getattr(decoder, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return inner(*args, **kwargs)

        setattr(decoder, name, wrapped)

    stock, ours = (
        generator_of([model_of(family)], SYMBOLS, DEFAULT.generation_options()) for _ in range(2)
    )
    if before:
        wrap(ours)
    el_attention.convert(ours)
    if not before:
        wrap(ours)
    arguments = DEFAULT.generation_arguments(family)
    expected = stock.generate(None, DEFAULT.sample(), **arguments)
    assert_same(expected, ours.generate(None, DEFAULT.sample(), **arguments))
    # fairseq's generator calls the last one only.
    assert calls or name == "reorder_incremental_state"
