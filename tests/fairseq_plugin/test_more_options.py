"""Options that fairseq's programs do not have, from a task and from a hub, against stock."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints

from clidata import run
from el_attention.fairseq_plugin.more_options import ensemble_weights
from el_attention.fairseq_plugin.task import ELTask
from el_attention.specialize import specialize
from families import LENGTHS, SYMBOLS, arguments_of, model_of
from tiny import (
    Hypotheses,
    TinyTask,
    assert_same,
    batch,
    generator_of,
    prompts,
    with_own_limits,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SEARCHES: dict[str, dict[str, Any]] = {
    "beam": {},
    "diverse beams": {"diverse_beam_groups": 2},
    "sampling": {"sampling": True},
}
SUPPRESSED = [f"w{number}" for number in range(0, 36, 3)]


def ours_of(models: list[Any], options: dict[str, Any], **of_task: Any) -> Any:
    """The generator that an el_ task builds of `options`, with options of its own."""
    task = specialize(TinyTask(SYMBOLS, "auto"), ELTask)
    for name, value in of_task.items():
        setattr(task.args, name, value)
    return task.build_generator([*map(copy.deepcopy, models)], Namespace(**options))


def answer(generator: SequenceGenerator, family: str, **arguments: Any) -> Hypotheses:
    torch.manual_seed(3)
    arguments = {**arguments_of(family), **arguments}
    return generator.generate([], batch(SYMBOLS, LENGTHS), **arguments)


def tokens_in(hypotheses: Hypotheses) -> set[int]:
    return {int(token) for sentence in hypotheses for h in sentence for token in h["tokens"]}


@pytest.mark.parametrize("given", [" ".join(SUPPRESSED), SUPPRESSED])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_suppressed_tokens_are_in_no_hypothesis(family, search, given) -> None:
    models, options = [model_of(family)], {"beam": 4, "max_len_b": 9, **SEARCHES[search]}
    stock = with_own_limits(
        generator_of(models, SYMBOLS, options, tokens_to_suppress=tuple(SUPPRESSED))
    )
    expected = answer(stock, family)
    free = answer(generator_of(models, SYMBOLS, options), family)
    indices = {SYMBOLS.index(token) for token in SUPPRESSED}
    assert indices & tokens_in(free)
    assert_same(expected, answer(ours_of(models, options, tokens_to_suppress=given), family))
    of_hub = ours_of(models, {**options, "tokens_to_suppress": given})
    assert_same(expected, answer(of_hub, family))


def test_a_constraint_of_a_suppressed_token_is_refused_by_name() -> None:
    options = {"constraints": "ordered", "tokens_to_suppress": "w1 <s>", "max_len_b": 20}
    ours = ours_of([model_of("transformer")], options)

    def packed(word: str) -> torch.Tensor:
        return pack_constraints([[torch.tensor([SYMBOLS.index(word)])] for _ in LENGTHS])

    assert SYMBOLS.index("w2") in tokens_in(answer(ours, "bart", constraints=packed("w2")))
    with pytest.raises(ValueError, match=r"constraints: expected .* not suppressed, too, got w1"):
        answer(ours, "bart", constraints=packed("w1"))


def test_suppressed_tokens_add_to_those_of_the_method() -> None:
    task = specialize(TinyTask(SYMBOLS), ELTask)
    models = [*generator_of([model_of("transformer")], SYMBOLS, {}).model.models]
    generator: Any = task.build_generator(
        models,
        Namespace(tokens_to_suppress="w1 <unk>"),
        extra_gen_cls_kwargs={"tokens_to_suppress": ["w2", "w1"]},
    )
    expected = sorted(SYMBOLS.index(token) for token in ("w1", "w2", "<unk>"))
    assert generator.token_indices_to_suppress.tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens_to_suppress": "w1 wurst"}, r"--tokens-to-suppress: .* got 'wurst'"),
        ({"tokens_to_suppress": "</s>"}, r"--tokens-to-suppress: .* '</s>', which ends it"),
        ({"tokens_to_suppress": [5]}, r"--tokens-to-suppress: .* got 5"),
        ({"ensemble_weights": "1"}, r"--ensemble-weights: .* each of 2 models.*got '1'"),
        ({"ensemble_weights": "1,x"}, "--ensemble-weights: "),
        ({"ensemble_weights": "1,0"}, "--ensemble-weights: "),
        ({"ensemble_weights": "1,-1"}, "--ensemble-weights: "),
        ({"ensemble_weights": "1,nan"}, "--ensemble-weights: "),
        ({"ensemble_weights": "1,inf"}, "--ensemble-weights: "),
        ({"ensemble_weights": [1e308, 1e-308]}, "--ensemble-weights: "),
        ({"no_repeat_ngram_after_prefix": True}, "expected --no-repeat-ngram-size, too"),
        (
            {"score_reference": True, "tokens_to_suppress": "w1"},
            "--tokens-to-suppress: expected none.*SequenceScorer",
        ),
        ({"score_reference": True, "ensemble_weights": "1,2"}, "--ensemble-weights: expected none"),
    ],
)
def test_what_means_nothing_is_refused_by_name(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ours_of([model_of("transformer"), model_of("transformer", 1)], options)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_a_model_of_weight_two_counts_as_two(family, search) -> None:
    one, other = model_of(family), model_of(family, 1)
    options = {"beam": 4, "max_len_b": 9, **SEARCHES[search]}
    expected = answer(generator_of([one, one, other], SYMBOLS, options), family)
    equal = answer(generator_of([one, other], SYMBOLS, options), family)
    assert [s[0]["score"] for s in expected] != [s[0]["score"] for s in equal]
    for weights in ("2,1", "0.5,.25"):
        ours = ours_of([one, other], options, ensemble_weights=weights)
        assert_same(expected, answer(ours, family))


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_equal_weights_are_fairseqs_mean_to_the_last_bit(family, search) -> None:
    models = [model_of(family, seed) for seed in range(3)]
    options = {"beam": 4, "max_len_b": 9, **SEARCHES[search]}
    plain = answer(ours_of(models, options), family)
    weighted = answer(ours_of(models, options, ensemble_weights="0.3,0.3,0.3"), family)
    assert_same(plain, weighted, tolerance=0.0)
    assert_same(answer(generator_of(models, SYMBOLS, options), family), weighted)


@pytest.mark.parametrize("full_context", [False, True])
def test_attention_weights_are_averaged_with_the_weights_of_the_models(full_context) -> None:
    one, other = model_of("transformer"), model_of("transformer", 1)
    options = {"beam": 2, "max_len_b": 9, "print_alignment": "soft"}
    stock = generator_of([one, one, other], SYMBOLS, options)
    ours = ours_of([one, other], options, ensemble_weights="2,1")
    for generator in (stock, ours):
        for model in generator.model.models:
            model.full_context_alignment = full_context
    for expected, got in zip(answer(stock, "bart"), answer(ours, "bart"), strict=True):
        for hypothesis, mine in zip(expected, got, strict=True):
            assert hypothesis["tokens"].tolist() == mine["tokens"].tolist()
            rows = torch.tensor([[float(p) for p in row] for row in hypothesis["alignment"]])
            mine_rows = torch.tensor([[float(p) for p in row] for row in mine["alignment"]])
            torch.testing.assert_close(rows, mine_rows, rtol=0, atol=1e-4)


@pytest.mark.parametrize("option", ["ensemble_weights", "no_repeat_ngram_after_prefix"])
def test_scripting_refuses_what_fairseqs_search_does_not_know(option) -> None:
    value = {"ensemble_weights": "2,1", "no_repeat_ngram_after_prefix": True}[option]
    models = [model_of("transformer"), model_of("transformer", 1)]
    generator = ours_of(models, {"no_repeat_ngram_size": 2}, **{option: value})
    with pytest.raises(ValueError, match=r"torch\.jit\.script: expected no --ensemble-weights"):
        torch.jit.script(generator)


def test_weights_are_relative() -> None:
    assert ensemble_weights("2,6", 2) == [0.25, 0.75]
    assert ensemble_weights([1e308, 1e308], 2) is None
    assert ensemble_weights("7", 1) is None


@pytest.mark.parametrize(("beam", "cut"), [(39, False), (40, True)])
def test_a_beam_wider_than_the_vocabulary_is_cut_with_a_warning(caplog, beam, cut) -> None:
    models, options = [model_of("transformer")], {"beam": beam, "max_len_b": 3}
    ours = ours_of(models, options)
    assert (f"--beam {beam}: expected at most 39" in caplog.text) is cut
    assert ours.beam_size == 39
    assert_same(answer(generator_of(models, SYMBOLS, options), "bart"), answer(ours, "bart"))


@pytest.mark.parametrize("search", ["beam", "sampling"])
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_tokens_behind_an_eos_in_a_prefix_are_reported(caplog, family, search) -> None:
    models, options = [model_of(family)], {"beam": 3, "max_len_b": 9, **SEARCHES[search]}
    ours = ours_of(models, options)
    for end, warnings in ((2, 0), (1, 1), (1, 1)):
        prefix = prompts(SYMBOLS, [5, 3, 4, 2])
        prefix[1, end] = SYMBOLS.eos()
        expected = answer(generator_of(models, SYMBOLS, options), family, prefix_tokens=prefix)
        got = answer(ours, family, prefix_tokens=prefix)
        assert_same(expected, got)
        assert caplog.text.count("tokens behind it are not read") == warnings


def test_the_command_line_has_the_options(workspace, caplog) -> None:
    def printed(*options: str, models: str = "transformer") -> list[str]:
        return run(
            "generate",
            *workspace.generation("translation", models, "--beam", "3", *options, plan="auto"),
        )

    free = printed()
    lines = printed("--tokens-to-suppress", "t3 t5 t9")
    words = {word for line in lines if line[0] == "H" for word in line.split()[2:]}
    assert not words & {"t3", "t5", "t9"}
    assert words & {word for line in free if line[0] == "H" for word in line.split()[2:]}
    double = printed(models="transformer:transformer:smaller")
    weighted = printed("--ensemble-weights", "2,1", models="transformer:smaller")
    for one, other in zip(double, weighted, strict=True):
        if one[0] == "H":  # name, score and tokens
            assert one.split()[2:] == other.split()[2:]
            assert float(one.split()[1]) == pytest.approx(float(other.split()[1]), abs=1e-4)
    with pytest.raises(ValueError, match=r"--tokens-to-suppress: .*'s1'"):
        printed("--tokens-to-suppress", "s1")
    with caplog.at_level(logging.WARNING):
        assert printed("--beam", "500", "--nbest", "20", "--max-len-b", "2")
    assert "--beam 500: expected at most 20" in caplog.text
