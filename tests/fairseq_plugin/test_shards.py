"""Shards of a data set hold every sentence once; constraints that no data set has are refused."""

from __future__ import annotations

import importlib
import sys
from unittest import mock

import pytest

from clidata import SINGLE_SENTENCES, Workspace, run, run_once
from crossed import crossed
from printed import EVERY_SENTENCE, assert_same_lines, by_sentence, printed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def shards_of(workspace: Workspace, number: int, setup: str, checkpoint: str, options: str):
    """The lines that each shard prints; none of one that has no sentences."""
    if setup == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    arguments = workspace.generation(setup, checkpoint, *options.split(), plan="auto")
    shards = []
    for shard in range(number):
        # Every shard is a process of its own; another amount of memory is free in each.
        numbers = ["--num-shards", str(number), "--shard-id", str(shard)]
        if "--batch-by-memory" in arguments:
            numbers += ["--el-memory-budget", f"{50 + 130 * shard}kB"]
        try:
            shards.append(run("generate", *arguments, *numbers))
        except SystemExit as exit_:
            assert exit_.code == 0
            shards.append([])
    return shards


@pytest.mark.parametrize(
    ("batches", "setup", "checkpoint", "options"),
    crossed(["--batch-size 3", "--batch-by-memory"], EVERY_SENTENCE),
)
def test_every_sentence_is_in_one_shard(workspace, setup, checkpoint, options, batches) -> None:
    shards = shards_of(workspace, 3, setup, checkpoint, f"{options} {batches}")
    one_by_one = [*options.split(), "--batch-size", "1"]
    whole = run_once("generate", *workspace.generation(setup, checkpoint, *one_by_one, plan="auto"))
    assert all(0 < len(printed(lines)) < 9 for lines in shards)
    together = [line for lines in shards for line in lines]
    assert_same_lines(by_sentence(whole), by_sentence(together), [setup, options, batches])


@pytest.mark.parametrize(
    "batches", crossed(["--required-batch-size-multiple 8", "--max-tokens 9", "--batch-by-memory"])
)
def test_a_shard_without_sentences_ends_well_and_says_so(workspace, caplog, batches) -> None:
    shards = shards_of(workspace, 15, "translation", "transformer", batches)
    assert sorted(i for lines in shards for i in printed(lines)) == list(range(13))
    empty = sum(not lines for lines in shards)
    assert 2 <= empty < 15
    assert caplog.text.count("WARNING  el_attention.fairseq_plugin.shards") == empty


@pytest.mark.parametrize(
    "options", ["--num-shards 3 --shard-id 3", "--num-shards 0", "--shard-id 1"]
)
def test_shards_that_there_are_not_are_refused(workspace, options) -> None:
    arguments = workspace.generation("translation", "transformer", *options.split(), plan="auto")
    with pytest.raises(ValueError, match="--shard-id: expected 0 to"):
        run("generate", *arguments)


def test_shards_of_two_kinds_are_refused(workspace) -> None:
    options = "--num-shards 3 --distributed-world-size 2".split()
    arguments = workspace.generation("translation", "transformer", *options, plan="auto")
    with pytest.raises(ValueError, match="--num-shards: expected 1, because --distributed"):
        run("generate", *arguments)


def test_fairseq_interactive_answers_every_line(workspace) -> None:
    options = "--num-shards 2 --shard-id 1 --buffer-size 3".split()
    arguments = workspace.generation("translation", "transformer", *options, plan="auto")
    assert printed(run("interactive", *arguments, stdin="s3\ns1 s2\ns5\n")) == [0, 1, 2]


@pytest.mark.skipif(not SINGLE_SENTENCES, reason="fairseq reads np.compat, which numpy 2 has not")
@pytest.mark.parametrize("shard", ["0", "1"])
def test_fairseq_eval_lm_takes_its_shard_once(workspace, shard) -> None:
    perplexities = []
    module = importlib.import_module("fairseq_cli.eval_lm")
    for plan in (None, "auto"):
        options = f"--num-shards 2 --shard-id {shard} --batch-size 1 --sample-break-mode eos"
        arguments = workspace.generation("lm", "lm", *options.split(), plan=plan)
        results: list[dict[str, float]] = []

        def keep(original=module.main, results=results):
            return lambda *a, **k: results.append(original(*a, **k))

        with (
            mock.patch.object(sys, "argv", ["fairseq-eval-lm", *arguments, "--num-workers", "0"]),
            mock.patch.object(module, "main", keep()),
        ):
            module.cli_main()
        perplexities.append(float(results[0]["perplexity"]))
    stock, ours = perplexities
    assert ours == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize(
    ("setup", "checkpoint", "options", "kind"), crossed(EVERY_SENTENCE, ["ordered", "unordered"])
)
def test_constraints_that_a_data_set_has_not_are_refused(
    workspace, setup, checkpoint, options, kind
) -> None:
    if setup == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    options = [*options.split(), "--constraints", kind]
    arguments = workspace.generation(setup, checkpoint, *options, plan="auto")
    with pytest.raises(ValueError, match=f"--constraints: expected none, .* got '{kind}'"):
        run("generate", *arguments)


@pytest.mark.skipif(not SINGLE_SENTENCES, reason="fairseq reads np.compat, which numpy 2 has not")
def test_constraints_in_a_session_with_a_language_model_are_refused(workspace) -> None:
    arguments = workspace.generation("lm", "lm", "--constraints", plan="auto")
    with pytest.raises(ValueError, match="--constraints: expected none"):
        run("interactive", *arguments, stdin="t1 t2\tt3\n")
