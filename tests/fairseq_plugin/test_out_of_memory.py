"""Batches that do not fit are split: the same hypotheses in the same order, nothing left behind."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import re
import weakref
from typing import Any

import pytest
import torch

import el_attention
from clidata import run, run_once
from crossed import REST, crossed
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.fairseq_plugin.parts import PER_SENTENCE, generate_part
from el_attention.fairseq_plugin.splitting import SplittingGenerator
from el_attention.ops import extension
from el_attention.robust.memory import is_out_of_memory
from families import FAMILIES, FEATURES, SYMBOLS, Feature, model_of
from faults import ERRORS, Memory
from tiny import PLANS, Hypotheses, assert_same, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

# n-gram blocking, so that this stage is there too; every operator is watched, so few steps.
FEATURE = Feature({"no_repeat_ngram_size": 2, "max_len_b": 6})

# Searched by fairseq's own loop.
OWN_SEARCH = Feature({"no_repeat_ngram_size": 2, "diverse_beam_groups": 2, "max_len_b": 6})

# Where generation takes memory: a file and a function in it.
STAGES = {
    "tree growth": ("tree.py", "_grow"),
    "cache growth": ("cache.py", "_allocate"),
    "attention": ("plans.py", "read") if extension.unsupported else ("layer.py", "_call"),
    "decoder layers": ("layer.py", "step"),
    "payload projection": ("plans.py", "payload"),
    "vocabulary": ("scorer.py", "score"),
    "n-gram block": ("beam.py", "_restricted"),
    "search": ("beam.py", "step"),
    "finished hypotheses": ("beam.py", "_finish"),
    "next beams": ("beam.py", "_continue"),
    "reordering": ("tree.py", "reorder"),
}
ENCODER_STAGES = {"encoder": ("transformer_encoder.py", "forward_scriptable")}
PROMPT_STAGES = {"prompt": ("decoder.py", "take_prompt")}
OWN_SEARCH_STAGES = {
    "own vocabulary": ("decoder.py", "el_project"),
    "own n-gram block": ("ngrams.py", "forward"),
    "own search": ("search.py", "step"),
    "own finished hypotheses": ("sequence_generator.py", "finalize_hypos"),
    "own reordering": ("tree.py", "reorder"),
}
CASES = [
    *(("transformer", FEATURE, stage) for stage in (ENCODER_STAGES | STAGES).items()),
    *(("lm", FEATURE, stage) for stage in (PROMPT_STAGES | STAGES).items()),
    *(("transformer", OWN_SEARCH, stage) for stage in OWN_SEARCH_STAGES.items()),
    ("lm", OWN_SEARCH, ("own prefix", ("generator.py", "_prefix_tokens"))),
]


def generator_for(family: str, feature: Feature, plan: str = "shared-projection") -> Any:
    generator = generator_of(
        [model_of(family)], SYMBOLS, feature.generation_options(), **feature.extra()
    )
    return el_attention.convert(generator, plan)


def generate(generator: Any, family: str, feature: Feature, **memory: Any) -> Hypotheses:
    torch.manual_seed(0)
    sample, arguments = feature.sample(), feature.generation_arguments(family)
    with Memory(**memory) as watched:
        hypotheses = SplittingGenerator(generator).generate(None, sample, **arguments)
    assert bool(watched.failures) == bool(memory)
    return hypotheses


def generate_undisturbed(generator: Any, family: str, feature: Feature) -> Hypotheses:
    torch.manual_seed(0)
    return generator.generate(None, feature.sample(), **feature.generation_arguments(family))


@pytest.mark.parametrize(
    ("family", "feature", "name", "stage"),
    [
        pytest.param(f, feature, *stage, id=f"{f}-{stage[0]}", marks=REST if n % 4 else ())
        for n, (f, feature, stage) in enumerate(CASES)
    ],
)
def test_memory_may_run_out_in_every_stage(family, feature, name, stage) -> None:
    generator = generator_for(family, feature)
    expected = generate_undisturbed(generator, family, feature)
    with Memory(stage=stage) as watched:
        generate_undisturbed(generator, family, feature)
    assert watched.allocations, f"{stage} allocates nothing"
    for fail_at in {0, random.Random(name).randrange(watched.allocations)}:
        ours = generate(generator, family, feature, stage=stage, fail_at=fail_at)
        assert_same(expected, ours)


@pytest.mark.parametrize(
    ("family", "plan"), crossed([*zip(FAMILIES, itertools.cycle(PLANS), strict=False)])
)
def test_memory_may_run_out_at_any_allocation(family, plan) -> None:
    generator = generator_for(family, FEATURE, plan)
    expected = generate_undisturbed(generator, family, FEATURE)
    sample, arguments = FEATURE.sample(), FEATURE.generation_arguments(family)
    torch.manual_seed(0)
    with Memory() as watched:
        generator.generate(None, sample, **arguments)
    for fail_at in random.Random(0).sample(range(watched.allocations), 5):
        assert_same(expected, generate(generator, family, FEATURE, fail_at=fail_at))


# Random numbers are drawn for other batches then: the hypotheses are others.
EXACT = [name for name in FEATURES if "sampling" not in name]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("transformer", name) for name in EXACT if "transformer" in FEATURES[name].families),
        *(("lm", name) for name in EXACT if "prefix" in name or "prompt" in name),
    ],
)
def test_every_feature_is_split_to_the_same_hypotheses(family, name) -> None:
    feature = FEATURES[name]
    generator = generator_for(family, feature)
    expected = generate_undisturbed(generator, family, feature)
    arguments = (feature.sample(), feature.generation_arguments(family))
    for sentence in range(len(expected)):
        ours = generate_part(generator, None, *arguments, [sentence])
        assert_same(expected[sentence : sentence + 1], ours)


@pytest.mark.parametrize("error", ERRORS)
def test_every_allocator_is_understood(error) -> None:
    generator = generator_for("bart", FEATURE)
    expected = generate_undisturbed(generator, "bart", FEATURE)
    assert_same(expected, generate(generator, "bart", FEATURE, fail_at=100, error=error))


def test_splits_down_to_single_sentences_and_says_so(caplog) -> None:
    generator = generator_for("transformer", FEATURE)
    expected = generate_undisturbed(generator, "transformer", FEATURE)
    with Memory() as watched:
        for sentence in range(4):
            generate_part(generator, None, FEATURE.sample(), {}, [sentence])
    with caplog.at_level(logging.WARNING):
        ours = generate(generator, "transformer", FEATURE, limit=watched.largest)
    assert_same(expected, ours)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines[0].startswith(
        "out of memory with 4 sentences (sources of 9 tokens, beam 4): trying 2 and 2 instead; "
    )
    assert len(lines) == 3 and all("trying 1 and 1" in line for line in lines[1:])


def test_a_single_sentence_that_does_not_fit_is_an_error() -> None:
    generator = generator_for("transformer", FEATURE)
    with pytest.raises(MemoryError, match=r"single sentence \(sources of 9 tokens, beam 4\)"):
        generate(generator, "transformer", FEATURE, limit=64)


def test_other_errors_are_raised_at_once() -> None:
    class Broken:
        calls = 0

        def generate(self, *_: Any, **__: Any) -> Hypotheses:
            self.calls += 1
            raise RuntimeError("something else")

    broken = Broken()
    with pytest.raises(RuntimeError, match="something else"):
        SplittingGenerator(broken).generate(None, FEATURE.sample())
    assert broken.calls == 1


def test_states_of_a_failed_attempt_are_freed_before_the_next(monkeypatch) -> None:
    alive: list[weakref.ref[DecodingState]] = []
    attach = DecodingState.attach

    def attaching(self: DecodingState, incremental_state: dict[str, Any]) -> None:
        assert not [state for state in alive if state() is not None]
        alive.append(weakref.ref(self))
        attach(self, incremental_state)

    monkeypatch.setattr(DecodingState, "attach", attaching)
    generator = generator_for("transformer", FEATURE)
    gc.disable()
    try:
        generate(generator, "transformer", FEATURE, fail_at=600)
    finally:
        gc.enable()
    assert len(alive) == 3


@pytest.mark.parametrize(
    ("setup", "checkpoint", "options", "fail_at"),
    [
        *crossed(
            [
                ("translation", "transformer", "--nbest 2"),
                ("translation", "transformer", "--prefix-size 2"),
                ("translation", "transformer", "--print-alignment hard"),
                ("translation", "transformer", "--max-len-a 1.3 --max-len-b 2"),
                ("translation", "transformer", "--match-source-len"),
                ("joint", "bart", ""),
                ("mbart", "mbart", ""),
                ("multi", "multi", "-s en -t de"),
            ],
            (50, 700),
        ),
        # One pass, of fewer than 700 operators.
        ("translation", "transformer", "--score-reference", 50),
    ],
)
def test_command_line_prints_the_same(
    workspace, setup, checkpoint, options, fail_at, caplog
) -> None:
    arguments = workspace.generation(setup, checkpoint, *options.split(), plan="auto")
    expected = run_once("generate", *arguments)
    with Memory(fail_at=fail_at, stage=("task.py", "inference_step")):
        lines = run("generate", *arguments)
    assert "out of memory with 13 sentences" in caplog.text
    assert [tokens(line) for line in lines] == [tokens(line) for line in expected]


@pytest.mark.parametrize("options", ["", "--constraints ordered"])
def test_interactive_prints_the_same(workspace, options, caplog) -> None:
    arguments = workspace.generation("translation", "transformer", *options.split(), plan="auto")
    arguments += ["--buffer-size", "5", "--batch-size", "5"]
    stdin = "s3 s1 s4\ts2\n\ns6 s5\ns1 s2 s3 s4\ts7 s8\ns9\n"
    if not options:
        stdin = stdin.replace("\t", " ")
    expected = run("interactive", *arguments, stdin=stdin)
    with Memory(fail_at=300, stage=("task.py", "inference_step")):
        lines = run("interactive", *arguments, stdin=stdin)
    assert "out of memory with 5 sentences" in caplog.text
    assert [tokens(line) for line in lines] == [tokens(line) for line in expected]


def tokens(line: str) -> str:
    """A printed line with its numbers rounded: sums depend on the size of a batch."""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.3f}", line)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("can't allocate memory"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        RuntimeError("could not create a descriptor for a dilated convolution"),
        RuntimeError("could not create a file"),
        RuntimeError("expected 4 sentences, got 3: not enough memory tokens"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        SystemError("<built-in function f> returned NULL without setting an exception"),
        SystemError("could not create a primitive"),
        SystemError("std::bad_alloc"),
    ],
)
def test_errors_that_are_no_want_of_memory(error) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        *(make() for make in ERRORS.values()),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        SystemError("error return without exception set"),
    ],
)
def test_errors_that_are_want_of_memory(error) -> None:
    assert is_out_of_memory(error)


class Echo:
    """Returns of every sentence what a batch holds of it, and whether memory sufficed."""

    def __init__(self, most: int = 99) -> None:
        self.most = most
        self.batches: list[int] = []

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Any:
        tokens = sample["net_input"]["src_tokens"]
        self.batches.append(len(tokens))
        if len(tokens) > self.most:
            raise MemoryError("no more")
        known = {**sample, **sample["net_input"], **arguments}
        names = [name for name in PER_SENTENCE if name in known and name != "id"]
        rest = [str(known[name]) for name in sorted(known) if name in ("other", "bos_token")]
        return [[*(known[name][i].tolist() for name in names), *rest] for i in range(len(tokens))]


UNKNOWN = {
    "as many numbers as sentences": torch.arange(4),
    "other numbers": torch.arange(3),
    "sentences on axis 1": torch.arange(12).view(3, 4),
    "sentences on axis 0": torch.arange(12).view(4, 3),
    "a list": [1, 2, 3, 4],
    "a mapping": {"key": torch.arange(4)},
}


@pytest.mark.parametrize("kind", UNKNOWN)
@pytest.mark.parametrize("place", ["sample", "net_input", "arguments"])
def test_a_batch_that_holds_what_is_not_known_is_not_split(kind, place) -> None:
    sample: dict[str, Any] = {"net_input": {"src_tokens": torch.arange(16).view(4, 4)}}
    arguments: dict[str, Any] = {"prefix_tokens": torch.arange(4).view(4, 1), "bos_token": 2}
    {"sample": sample, "net_input": sample["net_input"], "arguments": arguments}[place]["other"] = (
        UNKNOWN[kind]
    )
    generator = Echo()
    whole = generator.generate(None, sample, **arguments)
    assert generate_part(generator, None, sample, arguments, [3, 1]) == [whole[3], whole[1]]
    assert generator.batches == [4, 4]
    with pytest.raises(MemoryError, match=r"4 sentences \(.*\), which cannot be split.* other: "):
        SplittingGenerator(Echo(most=3)).generate(None, sample, **arguments)


@pytest.mark.parametrize("lengths", [torch.arange(3), torch.tensor(4), [1, 2, 3, 4]])
def test_a_known_name_with_other_rows_is_not_split(lengths) -> None:
    sample = {"net_input": {"src_tokens": torch.zeros(4, 7), "src_lengths": lengths}}
    with pytest.raises(MemoryError, match="src_lengths: expected a row for each of 4 sentences"):
        SplittingGenerator(Echo(most=3)).generate(None, sample)


@pytest.mark.parametrize("seed", crossed(range(8)))
def test_batches_of_known_names_are_split_by_sentences(seed) -> None:
    """Also where they are square, so that lengths say nothing about axes."""
    draw = random.Random(seed)
    number = draw.randint(2, 5)
    tensors: dict[str, Any] = {
        name: torch.arange(number * width).view(number, width) + 100 * place
        for place, name in enumerate(PER_SENTENCE)
        for width in [draw.choice([1, number, 7])]
        if name == "src_tokens" or draw.random() < 0.6
    }
    groups: dict[str, dict[str, Any]] = {"sample": {}, "net_input": {}, "arguments": {}}
    for name, tensor in tensors.items():
        place = draw.choice([*groups]) if name != "src_tokens" else "net_input"
        groups[place][name] = tensor
    sample = {
        **groups["sample"],
        "net_input": groups["net_input"],
        "ntokens": number,
        "nsentences": torch.tensor(number),
        "alignments": torch.zeros(number, 2),
    }
    arguments = {**groups["arguments"], "bos_token": 2, "constraints": None}
    arguments = {k: v for k, v in arguments.items() if v is not None}
    whole = Echo().generate(None, sample, **arguments)
    echo = Echo(most=draw.randint(1, number - 1))
    assert SplittingGenerator(echo).generate(None, sample, **arguments) == whole
    assert len(echo.batches) > 2
