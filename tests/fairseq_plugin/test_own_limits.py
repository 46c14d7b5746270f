"""In batches that are made by memory, limits of length are each sentence's own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import el_attention
from crossed import crossed
from el_attention.fairseq_plugin.own_limits import OwnLimitsGenerator
from el_attention.fairseq_plugin.splitting import SplittingGenerator
from families import SYMBOLS, model_of
from tiny import assert_same, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SEARCHES: dict[str, dict[str, Any]] = {
    "beam": {"beam": 3},
    "diverse": {"beam": 4, "diverse_beam_groups": 2},
    "sampling": {"beam": 1, "sampling": True, "sampling_topk": 1},
}


def alone(sample: dict[str, Any], sentence: int) -> dict[str, Any]:
    tokens = sample["net_input"]["src_tokens"][sentence]
    tokens = tokens[tokens.ne(SYMBOLS.pad())].unsqueeze(0)
    lengths = sample["net_input"]["src_lengths"][sentence : sentence + 1]
    return {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}


class Short:
    """A generator that has memory for a few sentences only."""

    def __init__(self, generator: Any, most: int) -> None:
        self._generator, self._most = generator, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Any:
        if len(sample["net_input"]["src_tokens"]) > self._most:
            raise MemoryError
        return self._generator.generate(models, sample, **arguments)


@pytest.mark.parametrize(("search", "seed"), crossed(SEARCHES, range(2)))
def test_hypotheses_are_those_of_each_sentence_alone(search, seed) -> None:
    draw = random.Random(f"{search} {seed}")
    limits: list[dict[str, Any]] = [
        {"max_len_a": 1, "max_len_b": 0},
        {"max_len_a": 0.6, "max_len_b": 2},
    ]
    options = {**SEARCHES[search], **draw.choice(limits)}
    sample = batch(SYMBOLS, [draw.randint(2, 9) for _ in range(6)] + [9])
    models = [model_of("transformer")]
    stock = generator_of(models, SYMBOLS, options)
    torch.manual_seed(0)
    expected = [stock.generate(None, alone(sample, i))[0] for i in range(7)]
    ours = el_attention.convert(generator_of(models, SYMBOLS, options))
    assert_same(expected, OwnLimitsGenerator(ours).generate(None, sample))
    short = Short(OwnLimitsGenerator(ours), draw.randint(1, 4))
    assert_same(expected, SplittingGenerator(short).generate(None, sample))


def test_the_source_that_is_matched_is_the_own() -> None:
    options = {"beam": 3, "match_source_len": True}
    sample = batch(SYMBOLS, [9, 3, 6, 3])
    models = [model_of("transformer")]
    stock = generator_of(models, SYMBOLS, options)
    expected = [stock.generate(None, alone(sample, i))[0] for i in range(4)]
    ours = el_attention.convert(generator_of(models, SYMBOLS, options))
    assert_same(expected, OwnLimitsGenerator(ours).generate(None, sample))
