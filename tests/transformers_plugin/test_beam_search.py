"""The beam search of the front end against that of Transformers, on scripted logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")

from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList  # noqa: E402
from transformers.generation import GenerationMixin  # noqa: E402
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402

import el_attention  # noqa: E402
from el_attention.transformers_plugin.beam_search import BeamSearch, Found  # noqa: E402
from el_attention.transformers_plugin.outputs import output_of  # noqa: E402
from el_attention.transformers_plugin.processors import Processors  # noqa: E402
from el_attention.transformers_plugin.rules import rules_of, stop_by_row  # noqa: E402
from transformers_models import MODELS, TWO, assert_same, build, inputs  # noqa: E402

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="of Transformers 5"
)


class Scripted(PreTrainedModel, GenerationMixin):
    """A model whose logits are looked up by the last two tokens and by the length."""

    config_class = transformers.PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, vocab_size: int, seed: int, dtype: torch.dtype) -> None:
        super().__init__(transformers.PretrainedConfig(vocab_size=vocab_size))
        noise = torch.Generator().manual_seed(seed)
        shapes = ((vocab_size, vocab_size), (vocab_size, vocab_size), (64, vocab_size))
        self.tables = [torch.randn(shape, generator=noise, dtype=dtype) for shape in shapes]
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.steps: list[int] = []  # rows of each

    def look_up(self, tokens: Tensor) -> Tensor:
        self.steps.append(len(tokens))
        last, before, by_length = self.tables
        length = tokens.size(1)
        return 2 * last[tokens[:, -1]] + before[tokens[:, max(0, length - 2)]] + by_length[length]

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.look_up(input_ids).unsqueeze(1))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}


class Searched(Scripted):
    """The same, with the search of the front end."""

    def _beam_search(self, input_ids, logits_processor, stopping_criteria, generation_config, **_):
        rules = rules_of(generation_config, self.config.vocab_size)
        assert rules is not None
        model = self

        class Sequences:
            tokens = input_ids

            def logits(self, tokens: Tensor) -> Tensor:
                self.tokens = torch.cat([self.tokens, tokens.unsqueeze(1)], 1)
                return model.look_up(self.tokens)

            def reorder(self, rows: Tensor) -> None:
                self.tokens = self.tokens[rows]

        processors = Processors(logits_processor)
        whole = generation_config.return_dict_in_generate
        leaves_out = not whole and processors.by_row and stop_by_row(stopping_criteria)
        search = BeamSearch(
            Sequences(), rules, processors, stopping_criteria, input_ids, leaves_out
        )
        found = search.run(self.look_up(input_ids))
        return output_of(found, generation_config, has_encoder=False) if whole else found.tokens


def both(
    vocab_size: int = 40,
    seed: int = 0,
    sentences: int = 3,
    prompt: int = 2,
    dtype: torch.dtype = torch.float32,
    allowed: Callable[[int, Tensor], list[int]] | None = None,
    criteria: Any = None,
    **options: Any,
) -> tuple[Any, Any, Searched]:
    """What Transformers finds and what the front end does, and the model of the latter."""
    tokens = torch.randint(3, vocab_size, (sentences, prompt), generator=torch.Generator())
    defaults = {"num_beams": 3, "max_length": 14, "pad_token_id": 1, "eos_token_id": 2}
    results, models = [], []
    for kind in (Scripted, Searched):
        model = kind(vocab_size, seed, dtype).eval()
        config = transformers.GenerationConfig(**{**defaults, **options}, use_cache=False)
        results.append(
            model.generate(
                tokens,
                generation_config=config,
                prefix_allowed_tokens_fn=allowed,
                stopping_criteria=criteria,
            )
        )
        models.append(model)
    return results[0], results[1], models[1]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never"},
    "never, short": {"early_stopping": "never", "length_penalty": -1.0},
    "penalty": {"length_penalty": 2.0},
    "no penalty": {"length_penalty": 0.0},
    "negative": {"length_penalty": -1.5},
    "several": {"num_return_sequences": 3},
    "several ends": {"eos_token_id": [2, 5, 7], "num_return_sequences": 2},
    "no end": {"eos_token_id": None},
    "pad 0": {"pad_token_id": 0},
    "no pad": {"pad_token_id": None},
    "least": {"min_length": 7},
    "least new": {"min_new_tokens": 5},
    "forced": {"forced_eos_token_id": 2},
    "blocked": {"no_repeat_ngram_size": 2},
    "blocked tokens": {"no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": [4, 5], "begin_suppress_tokens": [2]},
    "bad words": {"bad_words_ids": [[4], [5, 6]]},
    "others": {"repetition_penalty": 1.3, "exponential_decay_length_penalty": (3, 1.2)},
    "one step": {"max_length": 3},
    "infinite": {"remove_invalid_values": True},
}


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("name", OPTIONS)
def test_sequences_are_those_of_transformers(name, early) -> None:
    for seed in range(4):
        options = {"early_stopping": early, **OPTIONS[name]}
        stock, mine, _ = both(seed=seed, **options)
        assert torch.equal(stock, mine)


WHOLE = {"return_dict_in_generate": True}


@pytest.mark.parametrize("kept", [[], ["scores"], ["logits"], ["scores", "logits"]])
@pytest.mark.parametrize("name", ["early", "penalty", "several ends", "blocked", "forced", "pad 0"])
def test_scores_and_beams_are_those_of_transformers(name, kept) -> None:
    options = {
        "num_return_sequences": 2,
        **OPTIONS[name],
        **WHOLE,
        **{f"output_{what}": True for what in kept},
    }
    for seed in range(4):
        stock, mine, _ = both(seed=seed, **options)
        assert (stock.scores is None) == (mine.scores is None) == ("scores" not in kept)
        assert_same(stock, mine, 1e-6)


def test_criteria_see_the_scores_of_all_steps() -> None:
    seen: list[tuple[int, int]] = []

    class Watching(StoppingCriteria):
        def __call__(self, tokens: Tensor, scores: tuple[Tensor, ...] | None, **_: Any) -> Tensor:
            seen.append((tokens.size(1), len(scores or ())))
            return torch.zeros(len(tokens), dtype=torch.bool)

    both(
        criteria=StoppingCriteriaList([Watching()]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    half = len(seen) // 2
    assert seen[:half] == seen[half:] and seen[0] == (3, 1)


# bfloat16 has too many equal logits, whose order is not defined.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_logits_of_other_dtypes_are_searched_in_float32(dtype) -> None:
    stock, mine, _ = both(dtype=dtype, num_return_sequences=3)
    assert torch.equal(stock, mine)


def test_a_forced_first_token_leaves_one_candidate() -> None:
    stock, mine, _ = both(prompt=1, forced_bos_token_id=4)
    assert torch.equal(stock, mine)
    assert stock[:, 1].eq(4).all()


@pytest.mark.parametrize("allowed", [1, 2, 5])
def test_few_continuations_are_ordered_as_in_transformers(allowed) -> None:
    words = [torch.randperm(40, generator=torch.Generator())[:allowed].tolist() for _ in range(3)]
    stock, mine, _ = both(
        allowed=lambda sentence, tokens: [2, *words[sentence]],
        num_return_sequences=3,
    )
    assert torch.equal(stock, mine)


def test_blocked_tokens_count_in_probabilities_where_few_continuations_are_left() -> None:
    stock, mine, _ = both(
        6, seed=702722, sentences=1, num_beams=5, eos_token_id=[4, 2, 3], no_repeat_ngram_size=3,
        min_length=8, max_length=11,
    )  # fmt: skip
    assert torch.equal(stock, mine)


def test_sentences_whose_result_is_certain_are_left_out() -> None:
    _, _, model = both(seed=1, sentences=5, early_stopping=True, eos_token_id=[2, 3, 4, 5])
    assert model.steps == sorted(model.steps, reverse=True)
    assert model.steps[-1] < model.steps[0]


def test_no_sentence_is_left_out_where_processors_count_rows() -> None:
    seen = []

    def allowed(sentence: int, tokens: Tensor) -> list[int]:
        seen.append(sentence)
        return list(range(40))

    _, _, model = both(
        seed=1,
        sentences=5,
        early_stopping=True,
        eos_token_id=[2, 3, 4, 5],
        allowed=allowed,
    )
    assert len(set(model.steps)) == 1
    assert set(seen) == set(range(5))


def test_log_probabilities_are_not_computed_where_nothing_asks(monkeypatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("log_softmax of the whole vocabulary")

    _, expected, _ = both(no_repeat_ngram_size=2, min_length=4)
    monkeypatch.setattr(Processors, "__call__", refuse)
    _, mine, _ = both(no_repeat_ngram_size=2, min_length=4)
    assert torch.equal(expected, mine)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_converted_models_search_so(name, early, monkeypatch) -> None:
    model = build(name, torch.float32)  # stock XGLM fails in float64
    options = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_new_tokens": 15,
        "no_repeat_ngram_size": 2,
        "early_stopping": early,
    }
    arguments = inputs(model, (7, 2, 5, 3))
    expected = model.generate(**arguments, **options)
    taken: list[BeamSearch] = []
    run = BeamSearch.run

    def watched(self: BeamSearch, logits: Tensor) -> Found:
        taken.append(self)
        return run(self, logits)

    monkeypatch.setattr(BeamSearch, "run", watched)
    assert torch.equal(expected, el_attention.convert(model).generate(**arguments, **options))
    assert taken


def test_positions_that_are_given_go_on() -> None:
    model = build("gpt2")
    arguments = inputs(model)
    arguments["position_ids"] = torch.arange(7).expand(3, 7) + torch.tensor([[3], [0], [5]])
    expected = model.generate(**arguments, num_beams=3, max_new_tokens=8)
    found = el_attention.convert(model).generate(**arguments, num_beams=3, max_new_tokens=8)
    assert torch.equal(expected, found)


@settings(max_examples=150, deadline=None)
@given(
    vocab_size=st.sampled_from([6, 9, 23, 50]),
    seed=st.integers(0, 10**6),
    sentences=st.integers(1, 4),
    prompt=st.integers(1, 3),
    beams=st.integers(2, 5),
    returned=st.integers(1, 5),
    max_length=st.integers(4, 16),
    early=st.sampled_from([False, True, "never"]),
    penalty=st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.5]),
    ends=st.sampled_from([2, [2, 3], [4, 2, 3], None]),
    pad=st.sampled_from([None, 0, 1]),
    ngram=st.sampled_from([0, 0, 2, 3]),
    least=st.integers(0, 8),
    forced=st.booleans(),
    whole=st.booleans(),
)
def test_random_searches_equal_those_of_transformers(
    vocab_size, seed, sentences, prompt, beams, returned, max_length, early, penalty, ends, pad,
    ngram, least, forced, whole,
) -> None:  # fmt: skip
    options: dict[str, Any] = {"forced_eos_token_id": 2} if forced and ends is not None else {}
    stock, mine, _ = both(
        vocab_size=vocab_size, seed=seed, sentences=sentences, prompt=prompt, num_beams=beams,
        num_return_sequences=min(beams, returned), max_length=max_length, early_stopping=early,
        length_penalty=penalty, eos_token_id=ends, pad_token_id=pad, no_repeat_ngram_size=ngram,
        min_length=least, return_dict_in_generate=whole, **options,
    )  # fmt: skip
    if whole:
        assert torch.equal(stock.beam_indices, mine.beam_indices)
        stock, mine = stock.sequences, mine.sequences
    assert torch.equal(stock, mine)


@pytest.mark.parametrize("name", TWO)
def test_converted_models_return_scores_and_beams(name) -> None:
    model = build(name)
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 15, **WHOLE}
    arguments = inputs(model, (7, 2, 5, 3))
    expected = model.generate(**arguments, **options)
    found = el_attention.convert(model).generate(**arguments, **options)
    assert torch.equal(expected.beam_indices, found.beam_indices)
    assert type(expected) is type(found) and expected.keys() == found.keys()
