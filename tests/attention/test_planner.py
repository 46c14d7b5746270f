"""The planner: numbers computed by hand, its choices, and what a budget changes in a generation."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

import el_attention
from clidata import run
from crossed import crossed
from el_attention import cli
from el_attention.attention import (
    MEASURED,
    PLAN_CHOICES,
    PLANS,
    SELF,
    SOURCE,
    Candidate,
    Lengths,
    Planner,
    best,
    candidate,
    candidates,
    largest_batch_in,
    largest_fitting,
    plans_of,
    ranges,
    rates_of,
)
from el_attention.cost import ARCHITECTURES, CPU, DEVICES, GIB, Device, Rates, Workload
from el_attention.fairseq_plugin.architecture import architecture_named, architecture_of
from el_attention.robust.memory import bytes_of, free_bytes, in_units
from families import FAMILIES, SYMBOLS, generate, model_of
from tiny import assert_same, batch, build, dictionary, generator_of, prompts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

BART = ARCHITECTURES["bart.large"]
GPT2 = ARCHITECTURES["gpt-2.small"]
LOAD = Workload("float16", 32, 4, 1024, 140, 140)
MIB = 2**20


def states(arch: Any, load: Workload, **expanded: bool) -> float:
    kinds = {SELF: expanded["own"]}
    if arch.encoder is not None:
        kinds[SOURCE] = expanded["source"]
    return candidate(arch, load, CPU, MEASURED, kinds).state_bytes


def test_states_of_bart_large_by_hand() -> None:
    # 32 sentences x 1024 positions x 1024 numbers x 2 bytes: the encoder output.
    source = 64 * MIB
    # 12 layers x 32 x 4 hypotheses x 140 tokens x 1024 numbers x 2 bytes.
    tokens = 420 * MIB
    assert states(BART, LOAD, source=True, own=True) == source + tokens
    assert states(BART, LOAD, source=True, own=False) == source + 2 * tokens
    # Keys and values of 12 layers, and the encoder output that they were projected from.
    assert states(BART, LOAD, source=False, own=True) == 25 * source + tokens
    assert states(BART, LOAD, source=False, own=False) == 25 * source + 2 * tokens


def test_states_of_a_language_model_by_hand() -> None:
    # 12 layers x 32 prompts x 1024 positions x 768 numbers x 2 bytes; tokens for four beams.
    prompt, tokens = 12 * 32 * 1024 * 768 * 2, 12 * 32 * 4 * 140 * 768 * 2
    assert states(GPT2, LOAD, own=True) == prompt + tokens
    assert states(GPT2, LOAD, own=False) == 2 * (prompt + tokens)


def test_the_difference_of_two_plans_by_hand() -> None:
    """At a bandwidth without end only products count; at a rate without end only bytes."""
    load = replace(LOAD, dtype="float32", batch=2)
    rows, layers, d, keys = 8, 12, 1024, 1024

    def step(device: Device, expanded: bool) -> float:
        rates = Rates(1.0, 1.0, 1.0, 0.0)
        plans = {SELF: False, SOURCE: expanded}
        return candidate(BART, load, device, rates, plans).step_seconds

    arithmetic = Device("", GIB, 1e30, {"float32": 1e12})
    # Scores and contexts: 4 x rows x heads x keys x d, against 4 x rows x keys x d; and the two
    # expansions: 4 x rows x d x d.
    flops = layers * (4 * rows * keys * d * (16 - 1) + 4 * rows * d * d)
    assert step(arithmetic, True) - step(arithmetic, False) == pytest.approx(flops / 1e12)
    traffic = Device("", GIB, 1e9, {"float32": 1e30})
    # States are read once, against keys and values; expanded queries and contexts are written and
    # read; the weights of keys and values are read for the expansions.
    saved = layers * 2 * keys * d * 4
    added = layers * (4 * rows * 16 + 2 * d) * d * 4
    assert step(traffic, True) - step(traffic, False) == pytest.approx((added - saved) / 1e9)


def made_up(seconds: float, states: float, needed: float, **kinds: bool) -> Candidate:
    return Candidate(kinds, seconds, seconds, states, needed, needed)


def test_the_fastest_that_fits_is_best() -> None:
    fast, slow = made_up(1.0, 8, 10, a=True), made_up(1.5, 3, 4, a=False)
    assert best([slow, fast], available=10) is fast
    assert best([slow, fast], available=9.9) is slow
    assert best([slow, fast], available=1) is slow  # nothing fits: the smallest


def test_of_equally_fast_plans_the_smaller_is_best() -> None:
    fast, equal, slower = (
        made_up(1.0, 8, 10, a=True), made_up(1.004, 3, 4, a=False), made_up(1.006, 1, 1, a=False),
    )  # fmt: skip
    assert best([fast, equal, slower], available=99) is equal


@pytest.mark.parametrize("true_until", [0, 1, 2, 3, 6, 7, 8, 99, 100])
def test_the_largest_size_that_fits_is_found(true_until) -> None:
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= true_until

    assert largest_fitting(fits, limit=100) == true_until
    assert len(tried) < 20 and max(tried) <= 100


@pytest.mark.parametrize("plans", [{SELF: True, SOURCE: True}, {SELF: False, SOURCE: False}])
def test_the_largest_batch_fits_and_one_more_does_not(plans) -> None:
    available = 3 * GIB
    batch = largest_batch_in(BART, plans_of(plans, CPU), LOAD, available)
    peaks = [
        candidate(BART, LOAD.with_batch(size), CPU, MEASURED, plans).peak_bytes
        for size in (batch, batch + 1)
    ]
    assert peaks[0] <= available < peaks[1]


def test_a_cpu_projects_and_a_gpu_expands_for_large_sources() -> None:
    """4 beams x 16 heads read each state: too many products for one, cheap for the other."""
    cpu = best(candidates(BART, replace(LOAD, dtype="float32"), CPU, MEASURED), 99 * GIB)
    assert cpu.expanded[SOURCE] is False
    gpu = DEVICES["A100 SXM 80 GB"]
    chosen = best(candidates(BART, LOAD, gpu, MEASURED), 70 * GIB)
    assert chosen.expanded[SOURCE] is True


def test_ranges_cover_all_values_and_change_at_the_crossover() -> None:
    load = replace(LOAD, dtype="float32", batch=4)
    found = ranges(BART, load, CPU, MEASURED, 99 * GIB, "beam", range(1, 21))
    assert found[0][0] == 1 and found[-1][1] == 20
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(found))
    for first, last, chosen in found:
        for beam in (first, last):
            again = best(
                candidates(BART, replace(load, beam=beam), CPU, MEASURED), available=99 * GIB
            )
            assert again.expanded == chosen.expanded


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_asked_for_is_taken(name) -> None:
    choices = Planner(name, BART).choose(LOAD, torch.device("cpu"))
    assert {choice.plan.name for choice in choices.values()} == {name}
    assert {choice.reason for choice in choices.values()} == {"as requested"}


def test_a_budget_turns_to_the_smaller_states_and_says_what_each_needs() -> None:
    load = replace(LOAD, dtype="float32")
    cpu = torch.device("cpu")
    assert Planner("auto", BART, 99 * GIB).choose(load, cpu)[SOURCE].plan.name == (
        "shared-projection"
    )
    choice = Planner("auto", BART, 2 * GIB).choose(load, cpu)[SOURCE]
    assert choice.plan.name == "expanded-query"
    assert "2.0 GiB available" in choice.reason
    assert "with shared-projection" in choice.reason


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (Lengths(), 64),
        (Lengths(most=200), 64),
        (Lengths(most=7), 7),
        (Lengths(least=90, most=200), 90),
        (Lengths(least=3), 64),
        (Lengths(prompt=5, most=0), 1),
    ],
)
def test_a_plan_is_chosen_for_as_many_tokens_as_the_limits_allow(lengths, expected) -> None:
    assert lengths.expected == expected


def test_short_and_long_generations_may_take_other_plans() -> None:
    planner, cpu = Planner("auto", BART, 99 * GIB), torch.device("cpu")

    def predicted(lengths: Lengths) -> str:
        return planner.choose_for(torch.float32, cpu, 8, 4, 512, lengths)[SELF].reason

    assert predicted(Lengths()) == predicted(Lengths(least=64, most=64))
    assert len({predicted(Lengths(most=n)) for n in (2, 64)}) == 2
    long_prompt = Planner("auto", GPT2, 99 * GIB)
    reasons = {
        long_prompt.choose_for(torch.float32, cpu, 8, 4, None, Lengths(prompt=n))[SELF].reason
        for n in (1, 700)
    }
    assert len(reasons) == 2


def test_unknown_plans_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*auto.*, got 'fast'"):
        Planner("fast", BART)
    assert ("auto", *PLANS) == PLAN_CHOICES


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_has_a_rate(dtype) -> None:
    device, rates = rates_of(torch.device("cpu"), dtype)
    assert device.peak(str(dtype).removeprefix("torch.")) > 0 and rates is MEASURED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80 GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24 GB"),
        ("Tesla V100-PCIE-16GB", "V100 PCIe 16 GB"),
        ("NVIDIA Something New", "A100 SXM 80 GB"),
    ],
)
def test_gpus_are_known_by_name(name, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    device, _ = rates_of(torch.device("cuda"), torch.bfloat16)
    assert device.name == expected and device.peak("bfloat16") > 0


# In a generation


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_generates_the_same(family) -> None:
    assert_same(
        generate([model_of(family)], family), generate([model_of(family)], family, plan="auto")
    )


@pytest.mark.parametrize(
    ("family", "own_modules"), [("transformer", False), ("lm", False), ("transformer", True)]
)
def test_the_planner_knows_the_lengths_of_a_generation(family, own_modules, planned) -> None:
    model = copy.deepcopy(model_of(family))
    if own_modules:
        model.decoder.layers[0].register_forward_hook(lambda *_: None)
    options = {"beam": 2, "max_len_a": 0.0, "max_len_b": 9, "min_len": 4}
    generator = el_attention.convert(generator_of([model], SYMBOLS, options), "auto")
    prefix = {} if family == "transformer" else {"prefix_tokens": prompts(SYMBOLS, [2, 5])}
    generator.generate([], batch(SYMBOLS, [6, 3]), **prefix)
    # fairseq counts a prefix among the words; the end of sentence is a token.
    words = 5 if prefix else 0
    assert set(planned) == {Lengths(1 + words, max(0, 4 - words), 10 - words)}


@pytest.mark.parametrize("budget", crossed(["1KiB", "9GiB"]))
def test_the_option_reaches_the_planner_which_explains_itself_once(
    workspace, budget, caplog
) -> None:
    arguments = workspace.generation("translation", "transformer", plan="auto")
    options = ["--el-memory-budget", budget, "--batch-size", "2"]
    with caplog.at_level(logging.INFO):
        run("generate", *arguments, *options)
    for kind in (SELF, SOURCE):
        lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith(f"{kind}: ")]
        assert len({line.split(" (")[0] for line in lines}) == len(lines) >= 1
        assert in_units(bytes_of(budget)) + " available" in lines[0]


@pytest.mark.parametrize("text", ["much", "-1", "12 apples", "0", "1.2.3GB"])
def test_sizes_that_are_none_are_refused(workspace, text) -> None:
    arguments = workspace.generation("translation", "transformer", plan="auto")
    with pytest.raises(ValueError, match="expected a size such as 12GiB"):
        run("generate", *arguments, f"--el-memory-budget={text}")


@pytest.mark.parametrize("text", ["9" * 400, "1" * 5000 + "GiB", "9e9", "inf", "nan", "8388608TiB"])
def test_sizes_beyond_all_memory_are_refused_in_short(text) -> None:
    with pytest.raises(ValueError, match="expected a size such as 12GiB") as caught:
        bytes_of(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GiB", 12 * 2**30), ("1.5g", 1_500_000_000), ("800 MB", 800_000_000), ("77", 77)],
)
def test_sizes_are_read(text, size) -> None:
    assert bytes_of(text) == size


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_bytes(torch.device("cpu")) < total


def test_free_memory_heeds_the_limits_of_the_process() -> None:
    code = (
        "import resource, torch; from el_attention.robust.memory import free_bytes, _field\n"
        "used = _field('/proc/self/status', 'VmSize')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "print(free_bytes(torch.device('cpu')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(out.stdout.splitlines()[-1]) <= 2**28


# Architectures


@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_shapes_of_a_model(family) -> None:
    arch = architecture_of(build(family, dictionary()))
    assert (arch.decoder.layers, arch.decoder.width, arch.decoder.ffn) == (3, 24, 40)
    assert arch.decoder.heads == 4 and arch.vocabulary == 16
    assert (arch.encoder is None) == (family == "lm")
    if arch.encoder is not None:
        assert (arch.encoder.layers, arch.encoder.width) == (2, 24)


def test_shapes_of_fairseqs_architectures() -> None:
    named = architecture_named("bart_large", BART.vocabulary)
    assert (named.decoder, named.encoder) == (BART.decoder, BART.encoder)
    assert named.weights == pytest.approx(BART.weights, rel=0.01)
    assert architecture_named("transformer_lm_gpt2_small", 50257).encoder is None
    for name in ("lstm", "no_such", "nonautoregressive_transformer_wmt_en_de"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            architecture_named(name, 100)


# The command


@pytest.mark.parametrize(
    "options",
    ["", "--device a100 --dtype float16", "--arch transformer_lm_gpt2_small --device rtx4090"],
)
def test_the_command_prints_every_choice(options, capsys) -> None:
    assert cli.main(["plan", *options.split(), "--source", "512"]) == 0
    report = capsys.readouterr().out
    rows = [line for line in report.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == (2 if "lm" in options else 4)
    assert sum("(chosen)" in row for row in rows) == 1
    for part in ("by beam: 1 to ", "by source: 16 to ", "by batch: 1 to ", "estimate"):
        assert part in report


def test_the_command_prints_the_states_computed_by_hand(capsys) -> None:
    options = "--arch bart_large --device a100 --dtype float16 --tokens 140 --memory-budget 4GiB"
    assert cli.main(["plan", *options.split()]) == 0
    report = capsys.readouterr().out
    assert "4.0 GiB for states and temporaries" in report
    (row,) = [line for line in report.splitlines() if line.startswith("| expanded-query |")] or [
        line for line in report.splitlines() if line.startswith("| expanded-query (chosen)")
    ]
    assert row.split("|")[2].strip() == "484 MiB"  # 64 + 420


@pytest.mark.parametrize("options", ["--arch lstm", "--batch 0", "--memory-budget x"])
def test_the_command_refuses_what_it_cannot_plan(options, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan", *options.split()])
    assert "expected" in capsys.readouterr().err or "lstm" in options


@pytest.mark.parametrize("name", ["source", "beam", "tokens", "batch", "vocabulary"])
@pytest.mark.parametrize("value", ["-7", "0", "1.5", "inf", "x", str(2**31), "9" * 5000])
def test_the_command_refuses_numbers_that_are_no_sizes(name, value, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan", f"--{name}={value}"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--{name}: expected a whole number from 1 to" in line and f"got '{value[:9]}" in line


def test_convert_takes_a_budget() -> None:
    model = build("transformer", dictionary())
    el_attention.convert(model, "auto", memory_budget=1000)
    with pytest.raises(ValueError, match="no-such"):
        el_attention.convert(model, "no-such")
