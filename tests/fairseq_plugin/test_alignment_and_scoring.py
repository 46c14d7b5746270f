"""Attention weights of --print-alignment, and the scores of --score-reference."""

from __future__ import annotations

import copy
from argparse import Namespace
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.utils import extract_hard_alignment, extract_soft_alignment
from torch import Tensor

import el_attention
from crossed import crossed
from families import (
    DEFAULT,
    FAMILIES,
    FEATURES,
    SYMBOLS,
    WITH_ENCODER,
    Feature,
    arguments_of,
    enliven,
    generate,
    model_of,
)
from tiny import PLANS, Hypotheses, TinyTask, assert_same, batch, build, generator_of, prompts


@cache
def align_model(full_context: bool, layer: int = 1, heads: int = 2) -> BaseFairseqModel:
    options = {
        "alignment_layer": layer,
        "alignment_heads": heads,
        "full_context_alignment": full_context,
    }
    return enliven(build("transformer_align", SYMBOLS, seed=1, **options), 1)


def aligned(feature: Feature, kind: str) -> Feature:
    return replace(feature, options={**feature.options, "print_alignment": kind})


def as_numbers(alignment: Any) -> Tensor:
    """Soft alignments are printed numbers, hard ones pairs of positions."""
    return torch.tensor([[float(value) for value in row] for row in alignment])


def assert_same_alignments(stock: Hypotheses, ours: Hypotheses) -> None:
    assert_same(stock, ours)
    for expected, got in zip(stock, ours, strict=True):
        for one, other in zip(expected, got, strict=True):
            assert one["attention"].numel() > 0
            torch.testing.assert_close(other["attention"], one["attention"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                as_numbers(other["alignment"]), as_numbers(one["alignment"]), rtol=0, atol=2e-6
            )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("family", WITH_ENCODER)
def test_alignments_and_attention_are_equal(family, kind, plan) -> None:
    feature = aligned(DEFAULT, kind)
    stock = generate([model_of(family)], family, feature)
    assert len({str(h["alignment"]) for sentence in stock for h in sentence}) > 6
    assert_same_alignments(stock, generate([model_of(family)], family, feature, plan))


@pytest.mark.parametrize("name", ["prefix", "right padding", "diverse beams", "sampling"])
def test_alignments_are_equal_together_with(name) -> None:
    feature, models = aligned(FEATURES[name], "hard"), [model_of("bart")]
    assert_same_alignments(
        generate(models, "bart", feature), generate(models, "bart", feature, "expanded-query")
    )


@pytest.mark.parametrize("plan", PLANS)
def test_alignments_of_an_ensemble_are_equal(plan) -> None:
    feature, models = aligned(DEFAULT, "hard"), [model_of("transformer"), model_of("pre-norm")]
    assert_same_alignments(
        generate(models, "transformer", feature), generate(models, "transformer", feature, plan)
    )


@pytest.mark.parametrize("plan", PLANS)
def test_alignments_of_an_alignment_model_are_equal(plan) -> None:
    feature, models = aligned(DEFAULT, "hard"), [align_model(True)]
    assert_same_alignments(
        generate(models, "transformer", feature), generate(models, "transformer", feature, plan)
    )


@pytest.mark.parametrize(
    ("plan", "kind", "heads", "layer"), crossed(PLANS, ["hard", "soft"], [1, 3, 4], [0, 1, 2])
)
def test_alignments_are_those_of_the_layer_and_the_heads_of_the_model(
    layer, heads, kind, plan
) -> None:
    # Stock fairseq takes all heads of the last layer while it generates.
    model = align_model(False, layer, heads)
    feature = aligned(DEFAULT, kind)
    ours = generate([model], "transformer", feature, plan)
    assert_same(generate([model], "transformer", feature), ours)
    extract = {"hard": extract_hard_alignment, "soft": extract_soft_alignment}[kind]
    pad, eos = SYMBOLS.pad(), SYMBOLS.eos()
    net_input = DEFAULT.sample()["net_input"]
    for source, length, sentence in zip(*net_input.values(), ours, strict=True):
        for hypothesis in sentence:
            words = hypothesis["tokens"]
            inputs = torch.cat([torch.tensor([eos]), words[:-1]])
            with torch.no_grad():
                _, extra = model(source[None], length[None], inputs[None])
            expected = extra["attn"][0][0]
            torch.testing.assert_close(hypothesis["attention"], expected.T, rtol=1e-5, atol=1e-6)
            alignment = extract(hypothesis["attention"].T, source, words, pad, eos)
            assert torch.equal(as_numbers(hypothesis["alignment"]), as_numbers(alignment))


def test_attention_is_recorded_only_for_alignments() -> None:
    ours = generate([model_of("bart")], "bart", DEFAULT, "expanded-query")
    assert all(h["attention"].numel() == 0 for sentence in ours for h in sentence)


def scored(models: list[BaseFairseqModel], with_encoder: bool) -> list[list[dict[str, Any]]]:
    sample = batch(SYMBOLS, [9, 5, 7, 2])
    target = prompts(SYMBOLS, [5, 8, 2, 7], seed=4)
    target[1, -1] = SYMBOLS.eos()
    sample["target"] = target
    first = torch.full((4, 1), SYMBOLS.eos())
    inputs = torch.cat([first, target[:, :-1]], 1)
    if with_encoder:
        sample["net_input"]["prev_output_tokens"] = inputs
    else:
        sample["net_input"] = {"src_tokens": inputs, "src_lengths": target.ne(SYMBOLS.pad()).sum(1)}
    options = {"score_reference": True, "print_alignment": "hard" if with_encoder else None}
    scorer = generator_of(models, SYMBOLS, options)
    return scorer.generate(models, sample)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_references_get_identical_scores(family, count) -> None:
    models = [model_of(family), model_of(family, 7)][:count]
    converted = [el_attention.convert(copy.deepcopy(model)) for model in models]
    for model in converted:  # which have generated before
        generator = TinyTask(SYMBOLS).build_generator([model], Namespace(beam=3))
        el_attention.convert(generator).generate(None, DEFAULT.sample(), **arguments_of(family))
    with_encoder = family in WITH_ENCODER
    for expected, got in zip(
        scored(models, with_encoder), scored(converted, with_encoder), strict=True
    ):
        assert torch.equal(expected[0]["positional_scores"], got[0]["positional_scores"])
        assert expected[0]["alignment"] == got[0]["alignment"]
        if with_encoder:
            assert expected[0]["alignment"] and torch.equal(
                expected[0]["attention"], got[0]["attention"]
            )
