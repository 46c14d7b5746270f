"""Batches made by memory: the formulas against measured peaks, and what the command lines print."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import el_attention
from allocated import Allocated
from clidata import SINGLE_SENTENCES, run
from crossed import crossed
from el_attention.attention import SELF, SOURCE, plans_of
from el_attention.cost import CPU, Workload, memory_of
from el_attention.fairseq_plugin.architecture import architecture_of
from el_attention.fairseq_plugin.batching import DatasetByMemory
from el_attention.fairseq_plugin.parts import sentences_of
from el_attention.fairseq_plugin.task import ELTask
from el_attention.robust.memory import bytes_of
from printed import assert_same_lines, by_sentence
from tiny import PLANS, batch, build, dictionary, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SIZES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("embed_dim", 128), ("ffn_embed_dim", 512), ("layers", 4))
}
POSITIONS = dict.fromkeys(
    ("max_source_positions", "max_target_positions", "tokens_per_sample"), 600
)


def peaks(family: str, plan: str, load: Workload) -> tuple[float, float]:
    """Bytes at the worst moment of a generation: measured, and by the formula."""
    symbols = dictionary(2000)
    model = build(family, symbols, **SIZES, **POSITIONS)
    sample = batch(symbols, [load.source] * load.batch)
    prompt = load.source if family == "lm" else 0
    arguments = {"prefix_tokens": sample["net_input"]["src_tokens"][:, :-1]} if prompt else {}
    length = load.last_end + prompt
    options = {"beam": load.beam, "max_len_b": length, "min_len": length}
    generator = el_attention.convert(generator_of([model], symbols, options), plan)
    with torch.no_grad(), Allocated() as allocated:
        generator.generate(None, sample, **arguments)
    expanded = dict.fromkeys((SELF, SOURCE), plan == "expanded-query")
    memory = memory_of(architecture_of(model), plans_of(expanded, CPU), load)
    return allocated.peak, memory.peak - memory.weights


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("family", "source", "beam"), [("transformer", 400, 2), ("lm", 300, 2)])
def test_the_pass_over_sources_takes_what_the_formula_says(family, plan, source, beam) -> None:
    measured, formula = peaks(family, plan, Workload("float32", 8, beam, source, 4, 4))
    assert measured == pytest.approx(formula, rel=0.05)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_decoding_takes_no_more_than_the_formula_says(family, plan) -> None:
    """Less where beams share ancestors, for which the formula allows nothing."""
    measured, formula = peaks(family, plan, Workload("float32", 8, 4, 30, 60, 60))
    assert 0.4 * formula < measured < 1.05 * formula


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Sentences, tokens of the longest source and peak bytes of every batch of a command."""
    seen: list[tuple[int, int, int]] = []
    inference_step = ELTask.inference_step

    def watched(
        self: Any, generator: Any, models: Any, sample: Any, *args: Any, **more: Any
    ) -> Any:
        with Allocated() as allocated:
            result = inference_step(self, generator, models, sample, *args, **more)
        size = sample["net_input"]["src_tokens"].size(1)
        seen.append((sentences_of(sample), size, allocated.peak))
        return result

    monkeypatch.setattr(ELTask, "inference_step", watched)
    return seen


@pytest.mark.parametrize(("plan", "budget"), crossed([*PLANS, "auto"], ["30kB", "120kB", "1GiB"]))
def test_generation_prints_the_same_in_batches_that_fit(workspace, plan, budget, batches) -> None:
    options = ["--max-len-b", "12", "--beam", "3"]
    expected = run("generate", *workspace.generation("translation", "transformer", *options))
    arguments = workspace.generation("translation", "transformer", *options, plan=plan)
    arguments += ["--batch-by-memory", "--el-memory-budget", budget, "--batch-size", "1"]
    lines = run("generate", *arguments)
    # As in fairseq, batches are in order, and the longest sentence of each is printed first.
    assert_same_lines(by_sentence(expected), by_sentence(lines), arguments)
    assert sum(sentences for sentences, _, _ in batches) == 13
    for sentences, _, peak in batches:
        assert sentences == 1 or peak <= 1.05 * bytes_of(budget)
    if budget == "1GiB":
        assert len(batches) == 1
    else:
        assert max(sentences for sentences, _, _ in batches) > 1 or budget == "30kB"
        assert len(batches) > 1


@pytest.mark.parametrize(
    ("setup", "options"),
    [("multi", "-s en -t de"), ("mbart", ""), ("lm", "--sample-break-mode eos")],
)
def test_other_tasks(workspace, setup, options, batches) -> None:
    if setup == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    arguments = workspace.generation(setup, setup, *options.split(), plan="auto")
    expected = run("generate", *arguments)
    one = len(batches)
    ours = run("generate", *arguments, "--batch-by-memory", "--el-memory-budget", "300kB")
    assert_same_lines(by_sentence(expected), by_sentence(ours), arguments)
    assert len(batches) > one + 1


def test_interactive_fills_its_buffer(workspace, batches) -> None:
    stdin = "s3 s1 s4\n\ns6 s5\ns3 s1 s4\ns9\n"
    arguments = workspace.generation("translation", "transformer", plan="auto")
    expected = run("interactive", *arguments, stdin=stdin)
    del batches[:]
    arguments += ["--buffer-size", "3", "--batch-by-memory"]
    assert_same_lines(expected, run("interactive", *arguments, stdin=stdin), arguments)
    assert [sentences for sentences, _, _ in batches] == [3, 2]


def test_batches_are_cut_where_the_longest_source_says(monkeypatch) -> None:
    class Sizes:
        def largest(self, length: int) -> int:
            return {1: 5, 2: 3, 3: 2, 9: 1}[length]

        def describe(self, length: int) -> str:
            return ""

    class Sentences:
        lengths = (1, 1, 1, 2, 2, 2, 3, 3, 9, 1, 1)

        def num_tokens(self, index: int) -> int:
            return self.lengths[index]

    sizes: Any = Sizes()
    found = DatasetByMemory(Sentences(), sizes).batch_by_size(range(11), max_sentences=1)
    assert found == [[0, 1, 2], [3, 4, 5], [6, 7], [8], [9, 10]]


def test_training_is_refused(workspace, tmp_path) -> None:
    training = [
        "el_translation" if word == "translation" else word
        for word in workspace.training("transformer")
    ]
    command = workspace.generation("translation", "transformer", plan="auto")
    user_dir = command[command.index("--user-dir") :][:2]
    with pytest.raises(ValueError, match="--batch-by-memory: expected a generation"):
        run("train", *training, *user_dir, "--save-dir", str(tmp_path), "--batch-by-memory")
