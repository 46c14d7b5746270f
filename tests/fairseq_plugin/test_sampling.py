"""Sampling where every token that is allowed is very unlikely: as where they are likely."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fairseq.search import Sampling

import el_attention
from el_attention.fairseq_plugin.sampling import ELSampling
from el_attention.specialize import specialize
from families import LENGTHS, SYMBOLS, model_of
from tiny import batch, generator_of

KINDS = [(), (3,), (-1, 0.6)]  # arguments of fairseq's class


@pytest.mark.parametrize("far", [0.0, 30.0, 99.0, 300.0, 5000.0])
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_tokens_are_drawn_by_their_ratios(kind, step, far) -> None:
    random = torch.Generator().manual_seed(step)
    lprobs = torch.randn(3, 2, 9, generator=random).log_softmax(2)
    lprobs[:, :, 4] = -math.inf
    scores = torch.randn(3, 2, step, generator=random)
    apart = torch.full((3, 2, 1), far)
    apart[1] = 0  # one sentence as in fairseq
    stock, ours = Sampling(SYMBOLS, *kind), specialize(Sampling(SYMBOLS, *kind), ELSampling)
    torch.manual_seed(1)
    sums, tokens, beams = stock.step(step, lprobs.clone(), scores)
    torch.manual_seed(1)
    got = ours.step(step, lprobs - apart, scores)
    if far != 30.0 or "0.6" not in str(kind):  # there fairseq takes probabilities as they are
        assert torch.equal(got[1], tokens)
        torch.testing.assert_close(got[0], sums - apart[:, :, 0], rtol=1e-6, atol=1e-4)
    assert torch.equal(got[2], beams)
    if far > 200:
        with pytest.raises(RuntimeError, match="multinomial"):
            stock.step(step, lprobs - apart, scores)


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_a_model_that_is_sure_of_an_early_end_goes_on(family) -> None:
    """At such a temperature there is one token to draw: that of a beam of one."""
    cold: dict[str, Any] = {"temperature": 1e-4, "max_len_b": 9, "min_len": 6}
    models, sample = [model_of(family)], batch(SYMBOLS, LENGTHS)
    stock = generator_of(models, SYMBOLS, {"beam": 3, "sampling": True, **cold})
    with pytest.raises(RuntimeError, match="multinomial"):
        stock.generate([], sample)
    greedy = generator_of(models, SYMBOLS, {"beam": 1, **cold}).generate([], sample)
    ours = el_attention.convert(stock).generate([], sample)
    for (expected,), hypotheses in zip(greedy, ours, strict=True):
        for hypothesis in hypotheses:
            assert hypothesis["tokens"].tolist() == expected["tokens"].tolist()
            torch.testing.assert_close(hypothesis["score"], expected["score"])


def test_a_beam_without_any_token_is_a_named_error() -> None:
    model = model_of("transformer")
    generator = generator_of([model], SYMBOLS, {"beam": 2, "sampling": True})
    with torch.no_grad():
        generator.model.models[0].decoder.output_projection.weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"sampling: expected a possible token.*NaN"):
        el_attention.convert(generator).generate([], batch(SYMBOLS, LENGTHS))
