"""--retain-dropout: the same seed gives the same dropout, and so the same hypotheses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import el_attention
from crossed import crossed
from el_attention.fairseq_plugin.attention import ELAttention
from families import (
    DEFAULT,
    FAMILIES,
    FEATURES,
    RETAINED,
    SYMBOLS,
    Feature,
    generate,
    model_of,
    retaining,
)
from tiny import PLANS, Hypotheses, assert_same, generator_of

MODULES = {
    "attention": RETAINED,
    "everything": None,
    "layers": ["TransformerDecoderLayerBase", "TransformerEncoderLayerBase"],
    "embeddings": ["TransformerDecoder"],
}


def scores(hypotheses: Hypotheses) -> list[list[Tensor]]:
    return [[h["score"] for h in sentence] for sentence in hypotheses]


@pytest.mark.parametrize(("plan", "modules", "family"), crossed(PLANS, MODULES, FAMILIES))
def test_one_seed_gives_one_result(family, modules, plan) -> None:
    models = [retaining(family, MODULES[modules])]
    stock = generate(models, family, seed=3)
    assert scores(stock) != scores(generate(models, family, seed=4)), "dropout must act"
    assert_same(stock, generate(models, family, plan=plan, seed=3))


@pytest.mark.parametrize("name", ["beam 1", "sampling", "diverse beams", "prefix that ends"])
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_one_seed_gives_one_result_with(family, name) -> None:
    models = [retaining(family)]
    for plan in PLANS:
        assert_same(
            generate(models, family, FEATURES[name]),
            generate(models, family, FEATURES[name], plan),
        )


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_one_seed_gives_one_result_in_an_ensemble(family) -> None:
    models = [retaining(family), model_of(family, 2), retaining(family)]
    stock = generate(models, family)
    assert_same(stock, generate(models, family, plan="expanded-query"))


def test_one_seed_gives_one_result_when_the_generator_is_stock() -> None:
    """A stock generator tells a language model no beam, so that its states are copied."""
    model, feature = retaining("lm"), Feature({"beam": 3})
    stock = generate([model], "lm", feature)
    generator = generator_of([model], SYMBOLS, feature.generation_options())
    el_attention.convert(generator.model.models[0], "expanded-query")
    torch.manual_seed(0)
    arguments = DEFAULT.generation_arguments("lm")
    assert_same(stock, generator.generate(None, feature.sample(), **arguments))


@pytest.mark.parametrize("plan", PLANS)
def test_a_dropped_row_takes_its_share_of_the_value_bias_with_it(plan) -> None:
    """At the first step one row has weight 1: each head is 0, or the value over 1 - p."""
    model = el_attention.convert(retaining("lm").double(), plan)
    attention = model.decoder.layers[0].self_attn
    assert isinstance(attention, ELAttention)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        return lambda module, args, kwargs: seen.update({name: (*args, *kwargs.values())[0]})

    attention.register_forward_pre_hook(keep("query"), with_kwargs=True)
    attention.out_proj.register_forward_pre_hook(keep("heads"), with_kwargs=True)
    torch.manual_seed(1)
    with torch.no_grad():
        model.decoder(torch.full((40, 1), SYMBOLS.eos()), incremental_state={})
    assert isinstance(attention.v_proj, nn.Linear)
    heads = seen["heads"].view(40, attention.num_heads, -1)
    values = attention.v_proj(seen["query"]).view(heads.shape)
    dropped = heads.eq(0).all(-1)
    assert 0.2 < dropped.double().mean() < 0.4
    torch.testing.assert_close(heads[~dropped], values[~dropped] / 0.7, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_prompts_and_parts_of_a_batch_draw_the_numbers_of_layers_that_may_be_dropped(
    family, plan, monkeypatch
) -> None:
    monkeypatch.setattr("el_attention.fairseq_plugin.parts.PART_TOKENS", 4)
    models = [model_of(family, decoder_layerdrop=0.5, encoder_layerdrop=0.5)]
    feature = FEATURES["sampling"]
    stock = generate(models, family, feature)
    assert_same(stock, generate(models, family, feature, plan))


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_layers_are_dropped_in_training(part, monkeypatch) -> None:
    monkeypatch.setattr("el_attention.fairseq_plugin.parts.PART_TOKENS", 4)
    model = model_of("transformer", decoder_layerdrop=0.5, encoder_layerdrop=0.5)
    found = []
    for plan, trains in ((None, False), (None, True), ("expanded-query", True)):
        generator = generator_of([model], SYMBOLS, DEFAULT.generation_options())
        if plan is not None:
            el_attention.convert(generator, plan)
        if trains:
            layers = getattr(generator.model.models[0], part).layers
            layers.training = True
        torch.manual_seed(0)
        found.append(generator.generate(None, DEFAULT.sample()))
    evaluated, stock, ours = found
    assert scores(evaluated) != scores(stock), "layers must be dropped"
    assert_same(stock, ours)
