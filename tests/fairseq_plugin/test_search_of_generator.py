"""Which search a converted generator uses, and what it asks of the models."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor, nn

import el_attention
from el_attention.attention import Plan
from el_attention.fairseq_plugin import generator as generator_module
from el_attention.fairseq_plugin import scorer
from el_attention.search import beam_search
from families import (
    DEFAULT,
    FAMILIES,
    FEATURES,
    SYMBOLS,
    Feature,
    enliven,
    generate,
    model_of,
)
from one_by_one import take_operators_one_by_one
from tiny import assert_same, batch, build, dictionary, generator_of, prompts

# Features of fairseq's own search, and what the logged reason says.
ORDINARY = {
    "diverse beams": "a DiverseBeamSearch was asked for",
    "diverse siblings": "a DiverseSiblingsSearch was asked for",
    "sampling": "a Sampling was asked for",
    "sampling top-k": "a Sampling was asked for",
    "sampling top-p": "a Sampling was asked for",
    "ordered constraints": "a LexicallyConstrainedBeamSearch was asked for",
    "unordered constraints": "a LexicallyConstrainedBeamSearch was asked for",
    "source length": "a LengthConstrainedBeamSearch was asked for",
    "allowed words": "a PrefixConstrainedBeamSearch was asked for",
    "language-model fusion": "scores of a language model are added",
}


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of our search."""
    calls: list[Any] = []

    def spy(*args: Any) -> Any:
        calls.append(args)
        return beam_search(*args)

    monkeypatch.setattr(generator_module, "beam_search", spy)
    return calls


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about fairseq's own search."""
    start = "search: fairseq's own, because "
    return [r.message[len(start) :] for r in caplog.records if r.message.startswith(start)]


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, n) for f in FAMILIES for n, feature in FEATURES.items() if f in feature.families],
)
def test_features_of_the_matrix_use_the_search_they_should(family, name, searches, caplog) -> None:
    with caplog.at_level(logging.INFO):
        generate([model_of(family)], family, FEATURES[name], "auto")
    assert reasons(caplog) == ([ORDINARY[name]] if name in ORDINARY else [])
    assert len(searches) == (name not in ORDINARY)


class OwnNormalization(nn.Module):
    """Makes a model's probabilities sharper."""

    @staticmethod
    def of(model: BaseFairseqModel) -> BaseFairseqModel:
        def sharper(net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
            return (2 * net_output[0]).log_softmax(-1)

        model.get_normalized_probs = sharper
        return model


class OtherBlock(nn.Module):
    """Forbids a word."""

    def forward(self, tokens: Tensor, lprobs: Tensor, *_: int) -> Tensor:
        lprobs[:, 9] = -torch.inf
        return lprobs


class OtherGenerator(SequenceGenerator):
    """A generator of somebody else's."""


def adaptive() -> BaseFairseqModel:
    options = {
        "adaptive_softmax_cutoff": "10,20",
        "adaptive_softmax_factor": 2,
        "adaptive_softmax_dropout": 0.1,
        "tie_adaptive_weights": False,
    }
    return enliven(build("transformer_lm", SYMBOLS, 2, **options), 2)


def with_block(generator: SequenceGenerator) -> None:
    generator.repeat_ngram_blocker = OtherBlock()


def with_own_forward(generator: SequenceGenerator) -> None:
    generator.model.forward_decoder = generator.model.forward_decoder


def with_own_end(generator: SequenceGenerator) -> None:
    generator.is_finished = lambda step, _, most, found, beam: found > 0 or step == most


def with_own_step(generator: SequenceGenerator) -> None:
    step = generator.search.step
    generator.search.step = lambda number, lprobs, *more: step(number, 0.5 * lprobs, *more)


def as_other(generator: SequenceGenerator) -> None:
    generator.__class__ = OtherGenerator


def nothing(generator: SequenceGenerator) -> None:
    pass


def joined() -> BaseFairseqModel:
    return enliven(build("transformer", SYMBOLS, 3, cross_self_attention=True), 3)


def plain() -> BaseFairseqModel:
    return copy.deepcopy(model_of("transformer"))


Change = Callable[[SequenceGenerator], None]
OBSTACLES: dict[str, tuple[list[Callable[[], BaseFairseqModel]], Change, Change, str]] = {
    "adaptive softmax": ([adaptive], nothing, nothing, "has an adaptive softmax"),
    "normalization": (
        [plain], lambda g: OwnNormalization.of(g.model.models[0]), nothing,
        "a TransformerModel normalizes probabilities in its own way",
    ),
    "another model": ([plain, joined], nothing, nothing, "a TransformerModel is not converted"),
    "another block": ([plain], nothing, with_block, "n-grams are blocked by a OtherBlock"),
    "another forward": ([plain], nothing, with_own_forward, "forward_decoder of its own"),
    "another end": ([plain], nothing, with_own_end, "has a is_finished of its own"),
    "another step": ([plain], nothing, with_own_step, "the search has a step of its own"),
    "another generator": ([plain], as_other, nothing, "there is a OtherGenerator"),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_our_search_cannot_do_takes_fairseqs(name, searches, caplog) -> None:
    """The change is made before the generator is converted, or after."""
    networks, before, after, reason = OBSTACLES[name]
    models = [make() for make in networks]
    arguments = {"prefix_tokens": prompts(SYMBOLS, [4, 1, 2, 6])} if name.startswith("ad") else {}
    generators = [generator_of(models, SYMBOLS, DEFAULT.generation_options()) for _ in range(2)]
    for generator in generators:
        before(generator)
    el_attention.convert(generators[1])
    for generator in generators:
        after(generator)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            stock, ours = (g.generate(None, DEFAULT.sample(), **arguments) for g in generators)
            assert_same(stock, ours)
    (logged,) = reasons(caplog)
    assert reason in logged
    assert searches == []


@pytest.mark.parametrize("family", FAMILIES)
def test_hypotheses_have_the_fields_of_stock(family) -> None:
    stock = generate([model_of(family)], family)
    ours = generate([model_of(family)], family, plan="auto")
    for expected, got in zip(stock, ours, strict=True):
        for one, other in zip(expected, got, strict=True):
            assert one.keys() == other.keys()
            for key in one.keys() - {"attention"}:  # which is recorded for alignments only
                assert one[key].dtype == other[key].dtype and one[key].shape == other[key].shape
                assert one[key].device == other[key].device


def forwards(generator: SequenceGenerator) -> list[tuple[int, ...]]:
    """The shapes of the tokens that the first model will decode."""
    shapes: list[tuple[int, ...]] = []
    project = generator.model.models[0].decoder.output_projection
    project.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


class Uncharged(SequenceGenerator):
    """Stock, but for the penalty of unknown words, which it does not take from forced ones."""

    def _prefix_tokens(
        self, step: int, lprobs: Tensor, scores: Tensor, tokens: Tensor, prefix: Tensor, beam: int
    ) -> Any:
        for row in range(len(lprobs)):
            if prefix[row // beam, step] == self.unk:
                lprobs[row, self.unk] += self.unk_penalty
        return super()._prefix_tokens(step, lprobs, scores, tokens, prefix, beam)


def uncharged(models: list[BaseFairseqModel], feature: Feature) -> list[Any]:
    generator = generator_of(models, SYMBOLS, feature.generation_options(), **feature.extra())
    generator.__class__ = Uncharged
    torch.manual_seed(0)
    return generator.generate(None, feature.sample(), **feature.generation_arguments("lm"))


@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize("options", [{}, {"unkpen": 3.0, "temperature": 1.4}])
def test_a_prompt_is_projected_in_chunks_and_not_token_by_token(
    models, options, monkeypatch
) -> None:
    monkeypatch.setattr(scorer, "PROMPT_LOGITS", 7 * len(SYMBOLS))
    prefix = prompts(SYMBOLS, [12, 9, 15])
    prefix[0, 3] = SYMBOLS.unk()
    feature = Feature({**options, "max_len_b": 22}, {"prefix_tokens": prefix}, lengths=(2, 2, 2))
    networks = [model_of("lm"), model_of("lm", 1)][:models]
    ours = generator_of(networks, SYMBOLS, feature.generation_options())
    shapes = forwards(el_attention.convert(ours))
    assert_same(
        uncharged(networks, feature),
        ours.generate(None, feature.sample(), **feature.generation_arguments("lm")),
    )
    # 9 tokens of each of 3 sentences, 7 at a time; then token by token.
    assert [shape[0] for shape in shapes[:5]] == [7, 7, 7, 6, 3]
    assert len(shapes) <= 4 + 22 - 9 + 1


def test_a_decoder_with_a_forward_of_its_own_scores_its_prompt_word_by_word() -> None:
    """Its forward may make something else of the features."""
    networks = [copy.deepcopy(model_of("lm"))]
    options, arguments = DEFAULT.generation_options(), DEFAULT.generation_arguments("lm")
    generators = [generator_of(networks, SYMBOLS, options) for _ in range(2)]
    el_attention.convert(generators[1])
    for generator in generators:
        decoder = generator.model.models[0].decoder
        forward = decoder.forward
        decoder.forward = lambda *args, forward=forward, **kwargs: (
            forward(*args, **kwargs)[0] * 1.5,
            None,
        )
    stock, ours = (g.generate(None, DEFAULT.sample(), **arguments) for g in generators)
    assert_same(stock, ours)
    assert stock[0][0]["score"] != generate(networks, "lm")[0][0]["score"]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "lm"])
@pytest.mark.parametrize("ours", [True, False])
def test_our_search_computes_no_attention_weights(family, ours, monkeypatch) -> None:
    asked: list[bool] = []
    read = Plan.read

    def spy(self: Plan, *args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["need_weights"])
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Plan, "read", spy)
    take_operators_one_by_one(monkeypatch)
    options = DEFAULT.generation_options()
    generator = el_attention.convert(generator_of([model_of(family)], SYMBOLS, options))
    if not ours:
        monkeypatch.setattr(type(generator), "unsupported", lambda *_: "this test wants it so")
    stock = generate([model_of(family)], family)
    assert_same(stock, generator.generate(None, DEFAULT.sample()))
    assert asked and any(asked) == (not ours)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "lm"])
def test_sources_are_reordered_only_where_sentences_leave(family, monkeypatch) -> None:
    generator = el_attention.convert(
        generator_of([model_of(family)], SYMBOLS, DEFAULT.generation_options())
    )
    rows: list[int] = []
    reorder = EnsembleModel.reorder_encoder_out

    def spy(self: Any, encoder_outs: Any, new_order: Tensor) -> Any:
        rows.append(len(new_order))
        return reorder(self, encoder_outs, new_order)

    # Of the class: one that is set on the object would be a user's, and left to fairseq's search.
    monkeypatch.setattr(EnsembleModel, "reorder_encoder_out", spy)
    ours = generator.generate(None, DEFAULT.sample())
    assert rows == sorted(set(rows), reverse=True) and len(rows) > 1
    assert_same(generate([model_of(family)], family), ours)


def test_limits_that_exclude_each_other_are_named() -> None:
    options = {"beam": 2, "max_len_b": 3, "min_len": 5}
    generator = el_attention.convert(generator_of([model_of("bart")], SYMBOLS, options))
    with pytest.raises(ValueError, match="min_len: expected at most max_len, 3, got 5"):
        generator.generate(None, batch(SYMBOLS, [4, 3]))


OWN_SEARCHES: dict[str, dict[str, Any]] = {
    "beam": {},
    "diverse beams": {"diverse_beam_groups": 2},
    "diverse siblings": {"diversity_rate": 0.3},
    "sampling": {"sampling": True, "sampling_topk": 6},
}


@pytest.mark.parametrize("penalty", [3.0, torch.inf])
@pytest.mark.parametrize("search", OWN_SEARCHES)
def test_forced_unknown_words_are_not_charged(search, penalty) -> None:
    prefix = prompts(SYMBOLS, [4, 1, 6])
    prefix[0, 1] = prefix[1, 0] = prefix[2, 5] = SYMBOLS.unk()
    options = {**OWN_SEARCHES[search], "unkpen": penalty}
    feature = Feature(options, {"prefix_tokens": prefix}, lengths=(2, 2, 2))
    ours = generate([model_of("lm")], "lm", feature, "auto")
    if penalty == 3.0:
        assert_same(uncharged([model_of("lm")], feature), ours)
        return
    free = replace(feature, options={**options, "unkpen": 0.0})
    unpenalized = generate([model_of("lm")], "lm", free, "auto")
    for row, sentence, other in zip(prefix, ours, unpenalized, strict=True):
        words = row[row.ne(SYMBOLS.pad())]
        for h in sentence:
            assert torch.equal(h["tokens"][: len(words)], words)
            assert SYMBOLS.unk() not in h["tokens"][len(words) :]
            assert h["score"] > -torch.inf
            if search == "diverse beams":  # whose penalties are part of the scores
                continue
            forced = slice(0, len(words))
            torch.testing.assert_close(
                h["positional_scores"][forced], other[0]["positional_scores"][forced]
            )


@pytest.mark.parametrize("search", [*OWN_SEARCHES][:3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sentence_has_its_own_limits_once_its_prefix_is_over(family, search) -> None:
    prefix = prompts(SYMBOLS, [7, 1, 2], seed=3)
    extra = {"tokens_to_suppress": [SYMBOLS[word] for word in range(4, 12)]}
    options = {**OWN_SEARCHES[search], "min_len": 5}
    ours = generate(
        [model_of(family)],
        family,
        Feature(options, {"prefix_tokens": prefix}, lambda: extra, (5, 5, 5)),
        "auto",
    )
    for sentence, row in enumerate(prefix):
        feature = Feature(options, lengths=(5, 5, 5))
        sample = feature.sample()
        sample["id"] = torch.zeros(1, dtype=torch.int64)
        sample["net_input"] = {
            k: v[sentence : sentence + 1] for k, v in sample["net_input"].items()
        }
        stock = generator_of([model_of(family)], SYMBOLS, feature.generation_options(), **extra)
        own = row[row.ne(SYMBOLS.pad())].unsqueeze(0)
        assert_same(stock.generate(None, sample, prefix_tokens=own), ours[sentence : sentence + 1])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("search", OWN_SEARCHES)
def test_an_ngram_block_leaves_every_row_a_word(search, size) -> None:
    symbols = dictionary(6)
    for seed in range(9):
        networks = [build(("lm", "transformer")[seed % 2], symbols, seed)]
        options = {"beam": 4, "max_len_b": 9, "no_repeat_ngram_size": size, **OWN_SEARCHES[search]}
        generator = el_attention.convert(generator_of(networks, symbols, options))
        prefix = prompts(symbols, [3, 1], seed)
        torch.manual_seed(seed)
        hypotheses = generator.generate(None, batch(symbols, [4, 3], seed), prefix_tokens=prefix)
        for sentence in hypotheses:
            assert sentence and all(h["score"] > -torch.inf for h in sentence)
