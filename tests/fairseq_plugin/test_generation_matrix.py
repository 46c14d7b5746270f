"""Every generation feature of every model family: the same hypotheses as stock fairseq."""

from __future__ import annotations

import copy
from functools import cache

import fairseq
import pytest
import torch

import el_attention
from crossed import OPERATORS, crossed
from families import DEFAULT, FAMILIES, FEATURES, SYMBOLS, generate, model_of
from tiny import PLANS, Hypotheses, assert_same, generator_of

CASES = [(f, name) for f in FAMILIES for name, feature in FEATURES.items() if f in feature.families]


@cache
def stock(family: str, name: str | None = None) -> Hypotheses:
    """What stock fairseq generates; once for all plans."""
    return generate([model_of(family)], family, DEFAULT if name is None else FEATURES[name])


def tokens(hypotheses: Hypotheses) -> list[list[list[int]]]:
    return [[h["tokens"].tolist() for h in sentence] for sentence in hypotheses]


@pytest.mark.parametrize(
    ("family", "name", "plan", "operators"),
    crossed(CASES, PLANS, OPERATORS),
    indirect=["operators"],
)
def test_feature_gives_the_same_hypotheses(family, name, plan, operators) -> None:
    ours = generate([model_of(family)], family, FEATURES[name], plan)
    assert_same(stock(family, name), ours)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_feature_changes_what_stock_generates(family, name) -> None:
    """Without this, a test of a feature could pass although the feature did nothing."""
    scores = [[h["score"] for h in s] for s in stock(family, name)]
    default = [[h["score"] for h in s] for s in stock(family)]
    assert (scores, tokens(stock(family, name))) != (default, tokens(stock(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_hypotheses_of_the_matrix_are_diverse(family) -> None:
    lengths = [[len(h["tokens"]) for h in sentence] for sentence in stock(family)]
    assert len({length for sentence in lengths for length in sentence}) >= 6
    assert len({max(sentence) for sentence in lengths}) >= 3, "sentences must end at many steps"
    assert len({tuple(h) for sentence in tokens(stock(family)) for h in sentence}) >= 10


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_fairseq_in_float64_gives_the_same_tokens(family, plan) -> None:
    """Stock fairseq computes its softmax in float32 even there, hence the tolerance."""
    model = copy.deepcopy(model_of(family)).double()
    assert_same(generate([model], family), generate([model], family, plan=plan), tolerance=1e-6)


EXACT = ["beam 5", "sampling", "diverse beams", "prefix that ends", "length penalty"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EXACT)
def test_fairseq_with_softmax_in_float64_agrees_to_rounding(family, name, exact_softmax) -> None:
    model = copy.deepcopy(model_of(family)).double()
    expected = generate([model], family, FEATURES[name])
    assert expected[0][0]["score"].dtype == torch.float64
    for plan in PLANS:
        ours = generate([model], family, FEATURES[name], plan)
        assert_same(expected, ours, tolerance=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_diverse_beams_take_any_numbers_of_sentences(family) -> None:
    """fairseq-fixed takes them for positions and fails beyond the batch; 0.12.2 does not."""
    feature = FEATURES["diverse beams"]
    sample, arguments = feature.sample(), feature.generation_arguments(family)
    sample["id"] = sample["id"] + 1000
    generator = generator_of([model_of(family)], SYMBOLS, feature.generation_options())
    if fairseq.__version__ == "0.12.2":
        theirs = generator.generate(None, sample, **arguments)
        assert_same(stock(family, "diverse beams"), theirs)
    else:
        with pytest.raises(IndexError):
            generator.generate(None, sample, **arguments)
    generator = generator_of([model_of(family)], SYMBOLS, feature.generation_options())
    ours = el_attention.convert(generator).generate(None, sample, **arguments)
    assert_same(stock(family, "diverse beams"), ours)
