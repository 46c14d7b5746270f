"""Converted generators under autocast, after changes of their values, and as copies."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator

import el_attention
from families import LENGTHS, SYMBOLS, WITH_ENCODER, model_of
from tiny import assert_same, batch, generator_of, prompts


def generators(family: str, **options: object) -> tuple[SequenceGenerator, SequenceGenerator]:
    """A stock generator and a converted one, over models of the same weights."""
    stock = generator_of([model_of(family)], SYMBOLS, {"beam": 3, "max_len_b": 7, **options})
    return stock, el_attention.convert(copy.deepcopy(stock))


def answer(generator: SequenceGenerator, family: str) -> list[list[dict[str, torch.Tensor]]]:
    sample = batch(SYMBOLS, LENGTHS)
    prefix = None if family in WITH_ENCODER else prompts(SYMBOLS, [3] * len(LENGTHS))
    return generator.generate([], sample, prefix_tokens=prefix)


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_autocast_gives_what_stock_gives(family):
    stock, ours = generators(family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(answer(stock, family), answer(ours, family))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_another_default_dtype_changes_nothing(family, default):
    stock, ours = generators(family)
    torch.set_default_dtype(default)
    try:
        expected, found = answer(stock, family), answer(ours, family)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(expected, found)
    for name in ("score", "positional_scores"):
        assert found[0][0][name].dtype == expected[0][0][name].dtype


@pytest.mark.parametrize(
    "change",
    [
        {"beam_size": 2},
        {"beam_size": 6},
        {"max_len_a": 0.5, "max_len_b": 3},
        {"min_len": 4},
        {"len_penalty": 0.2},
        {"unk_penalty": 3.0},
        {"temperature": 1.7},
        {"normalize_scores": False},
        {"match_source_len": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_values_changed_on_a_converted_generator_count(family, change):
    stock, ours = generators(family)
    answer(ours, family)
    for generator in (stock, ours):
        for name, value in change.items():
            setattr(generator, name, value)
    if "beam_size" in change:  # of which stock BART has told its models when it was made
        stock, _ = generators(family, beam=change["beam_size"])
    assert_same(answer(stock, family), answer(ours, family))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_converted_generators_survive_copies(family, again):
    stock, ours = generators(family)
    twin = again(ours)
    assert type(twin) is type(ours)
    assert_same(answer(stock, family), answer(twin, family))


def strategies(generator: SequenceGenerator) -> None:
    generator.search = DiverseBeamSearch(SYMBOLS, num_groups=3, diversity_strength=0.7)


def blocked(generator: SequenceGenerator) -> None:
    generator.repeat_ngram_blocker = NGramRepeatBlock(2)


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_a_search_strategy_changed_on_a_converted_generator_counts(family):
    stock, ours = generators(family)
    before = answer(ours, family)
    for generator in (stock, ours):
        strategies(generator)
    after = answer(ours, family)
    assert_same(answer(stock, family), after)
    assert [h["tokens"].tolist() for s in before for h in s] != [
        h["tokens"].tolist() for s in after for h in s
    ]


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_a_block_of_ngrams_set_on_a_converted_generator_counts(family):
    # Stock fairseq blocks nothing on a CPU, whose extension is for CUDA.
    _, ours = generators(family, max_len_b=14)
    _, expected = generators(family, max_len_b=14, no_repeat_ngram_size=2)
    answer(ours, family)
    blocked(ours)
    assert_same(answer(expected, family), answer(ours, family))
    for sentence in answer(ours, family):
        for hypothesis in sentence:
            tokens = hypothesis["tokens"].tolist()
            pairs = list(itertools.pairwise(tokens))
            assert len(pairs) == len(set(pairs))
