"""Sources and prompts of a batch are encoded in parts."""

from __future__ import annotations

from typing import Any

import pytest
from fairseq.models.transformer import TransformerEncoderBase

import el_attention
from el_attention.decoder import runtime
from el_attention.fairseq_plugin import parts as limits
from el_attention.state import RowCache
from families import DEFAULT, SYMBOLS, arguments_of, generate, model_of, retaining
from tiny import PLANS, assert_same, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

LENGTHS = [9, 4, 9, 2, 7]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sentences of every pass of an encoder, of which two of the longest may come together."""
    seen: list[int] = []
    forward = TransformerEncoderBase.forward

    def watched(self: Any, src_tokens: Any, *args: Any, **more: Any) -> Any:
        seen.append(len(src_tokens))
        return forward(self, src_tokens, *args, **more)

    monkeypatch.setattr(TransformerEncoderBase, "forward", watched)
    monkeypatch.setattr(limits, "PART_TOKENS", 2 * max(LENGTHS) + 1)
    return seen


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "bart"])
def test_hypotheses_are_those_of_the_whole_batch(family, plan, parts) -> None:
    sample = batch(SYMBOLS, LENGTHS)
    generator = generator_of([model_of(family)], SYMBOLS, DEFAULT.generation_options())
    expected = generator.generate(None, sample)
    assert parts == [5]
    del parts[:]
    assert_same(expected, el_attention.convert(generator, plan).generate(None, sample))
    assert parts == [2, 2, 1]


def test_batches_that_draw_random_numbers_are_encoded_at_once(parts) -> None:
    models = [retaining("transformer", None)]
    assert_same(
        generate(models, "transformer", seed=3),
        generate(models, "transformer", plan="expanded-query", seed=3),
    )
    assert len(parts) == 2 and parts[0] == parts[1] > 2


def test_a_source_longer_than_a_part_is_encoded_alone(parts, monkeypatch) -> None:
    monkeypatch.setattr(limits, "PART_TOKENS", 1)
    generator = generator_of([model_of("transformer")], SYMBOLS, DEFAULT.generation_options())
    el_attention.convert(generator).generate(None, batch(SYMBOLS, LENGTHS))
    assert parts == [1] * 5


@pytest.mark.parametrize(("tokens", "sizes"), [(1, [1] * 4), (21, [3, 1]), (2**10, [4])])
@pytest.mark.parametrize("plan", PLANS)
def test_hypotheses_are_those_of_all_prompts_at_once(plan, tokens, sizes, monkeypatch) -> None:
    seen: list[tuple[int, int]] = []
    fill = RowCache.fill

    def watched(self: RowCache, payload: Any, columns: Any, width: int) -> None:
        seen.append((id(self), len(columns)))
        fill(self, payload, columns, width)
        assert self.segments[0][0].size(1) == width
        assert (self.segments[0][0] is self.segments[0][1]) == (plan == "expanded-query")

    generator = generator_of([model_of("lm")], SYMBOLS, DEFAULT.generation_options())
    sample, arguments = batch(SYMBOLS, [3] * 4), arguments_of("lm")
    expected = generator.generate(None, sample, **arguments)
    monkeypatch.setattr(RowCache, "fill", watched)
    monkeypatch.setattr(runtime, "PART_TOKENS", tokens)
    assert_same(expected, el_attention.convert(generator, plan).generate(None, sample, **arguments))
    assert [size for cache, size in seen if cache == seen[0][0]] == sizes
