"""The plugin prints what stock fairseq-generate and fairseq-interactive print, line by line."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask

from clidata import SINGLE_SENTENCES, USER_DIR, Workspace, binarize, run, run_once
from crossed import crossed
from printed import assert_same_lines, by_sentence
from tiny import PLANS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

needs_single_sentences = pytest.mark.skipif(
    not SINGLE_SENTENCES, reason="fairseq reads np.compat, which numpy 2 has not"
)

# An empty line, repeated words, an unknown word, and lengths that differ.
LINES = "\n".join(["{0}3 {0}1 {0}4 {0}1 {0}5 {0}9 {0}2", "", "{0}6", "never {0}5", "{0}3 {0}5", ""])


def hypotheses(lines: Sequence[str]) -> list[list[str]]:
    return [line.split("\t")[2].split() for line in lines if line.startswith("H-")]


def compare(
    workspace: Workspace,
    setup: str,
    checkpoints: str,
    *options: str,
    plan: str,
    command: str = "generate",
    stdin: str = "",
) -> list[str]:
    """Runs a command with the stock task and with its twin; returns the lines."""
    reference = workspace.generation(setup, checkpoints, *options)
    arguments = workspace.generation(setup, checkpoints, *options, plan=plan)
    stock = run_once(command, *reference, stdin=stdin)
    ours = run(command, *arguments, stdin=stdin)
    assert_same_lines(stock, ours, [f"fairseq-{command}", *arguments])
    return ours


@pytest.fixture
def mended_mbart_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives fairseq's translation_from_pretrained_bart the attribute that it fails without."""
    by_another_name = property(lambda task: task.cfg)
    monkeypatch.setattr(TranslationFromPretrainedBARTTask, "args", by_another_name, raising=False)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("setup", "checkpoint", "options"),
    [
        ("translation", "transformer", ""),
        ("joint", "bart", ""),
        ("mbart", "mbart", ""),
        ("multi", "multi", "-s en -t de"),
        pytest.param("lm", "lm", "--sample-break-mode eos", marks=needs_single_sentences),
    ],
)
@pytest.mark.usefixtures("mended_mbart_task")
def test_every_family_generates_what_stock_generates(workspace, setup, checkpoint, options, plan):
    lines = compare(workspace, setup, checkpoint, *options.split(), plan=plan)
    # The comparison is worth something only if sentences differ and end at different steps.
    assert {line[0] for line in lines} == set("STHDPG")
    assert len(hypotheses(lines)) == 13
    assert len({len(words) for words in hypotheses(lines)}) > 4
    assert len(set(map(tuple, hypotheses(lines)))) > 8


FEATURES = {
    "greedy": "--beam 1",
    "lengths and penalties": "--beam 3 --nbest 3 --lenpen 0.4 --unkpen 0.7 --min-len 3 "
    "--max-len-a 0.5 --max-len-b 4 --temperature 1.3",
    "unnormalized": "--beam 7 --nbest 7 --unnormalized",
    "sampling": "--sampling --beam 3 --nbest 3 --seed 7",
    "top-k sampling": "--sampling --sampling-topk 5 --beam 3 --nbest 3 --seed 8",
    "top-p sampling": "--sampling --sampling-topp 0.7 --beam 3 --nbest 3 --seed 9",
    "diverse beam groups": "--diverse-beam-groups 2 --beam 4 --diverse-beam-strength 0.4 --nbest 4",
    "diverse siblings": "--diversity-rate 0.5 --beam 4 --nbest 4",
    "prefix": "--prefix-size 2",
    "match source length": "--match-source-len",
    "hard alignment": "--print-alignment hard",
    "soft alignment": "--print-alignment soft",
    "score reference": "--score-reference",
    "retained dropout": "--retain-dropout --seed 3",
    "many batches": "--max-tokens 24",
    "post-processing": "--remove-bpe --scoring sacrebleu",
    "skipped sources": "--max-source-positions 6 --skip-invalid-size-inputs-valid-test",
}


@pytest.mark.parametrize(
    ("feature", "plan"), crossed([*zip(FEATURES, itertools.cycle([*PLANS, "auto"]), strict=False)])
)
def test_features_of_generation(workspace, feature, plan):
    options = FEATURES[feature].split()
    lines = compare(workspace, "translation", "transformer", *options, plan=plan)
    plain = hypotheses(run_once("generate", *generation_of(workspace)))
    if "--nbest" in options:
        assert len(hypotheses(lines)) > 13
    if "alignment" in feature:
        assert sum(line.startswith("A-") for line in lines) == 13
    elif feature == "skipped sources":
        assert 0 < len(hypotheses(lines)) < 13
    elif feature not in ("many batches", "post-processing"):
        assert hypotheses(lines) != plain  # the option did something


def generation_of(workspace: Workspace) -> list[str]:
    return workspace.generation("translation", "transformer")


@pytest.mark.parametrize("plan", PLANS)
def test_ensemble(workspace, plan):
    lines = compare(workspace, "translation", "transformer:smaller", plan=plan)
    alone = run_once("generate", *generation_of(workspace))
    assert hypotheses(lines) != hypotheses(alone)


def test_language_model_fusion(workspace):
    options = ["--lm-path", workspace.checkpoint("lm"), "--lm-weight", "0.4"]
    lines = compare(workspace, "translation", "transformer", *options, plan="expanded-query")
    alone = run_once("generate", *generation_of(workspace))
    assert hypotheses(lines) != hypotheses(alone)


@needs_single_sentences
@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ("--prefix-size 3", "expanded-query"),
        ("--beam 1", "shared-projection"),
        ("--sampling --beam 3 --nbest 3 --seed 5 --max-tokens 30", "expanded-query"),
        ("--score-reference", "shared-projection"),
        ("--max-len-b 3 --min-len 2 --nbest 5", "auto"),
    ],
)
def test_features_of_language_models(workspace, options, plan):
    compare(workspace, "lm", "lm", "--sample-break-mode", "eos", *options.split(), plan=plan)


@pytest.mark.parametrize(
    ("setup", "checkpoint", "options", "prefix", "plan"),
    crossed(
        [
            ("translation", "transformer", "", "s", "expanded-query"),
            (
                "translation",
                "transformer",
                "--buffer-size 4 --batch-size 3",
                "s",
                "shared-projection",
            ),
            ("translation", "transformer:smaller", "--buffer-size 9 --max-tokens 20", "s", "auto"),
            ("translation", "transformer", "--print-alignment --nbest 2", "s", "expanded-query"),
            ("joint", "bart", "--buffer-size 4 --batch-size 3", "w", "expanded-query"),
            ("denoising", "bart", "--buffer-size 4 --batch-size 3 --max-len-b 20", "w", "auto"),
            ("mbart", "mbart", "--buffer-size 4 --batch-size 3", "w", "expanded-query"),
            ("multi", "multi", "-s en -t de --buffer-size 4 --batch-size 3", "w", "expanded-query"),
            ("lm", "lm", "--buffer-size 4 --batch-size 3", "t", "expanded-query"),
            ("lm", "lm", "--sampling --nbest 3 --beam 3 --seed 2", "t", "shared-projection"),
            ("lm", "lm", "--add-bos-token --buffer-size 9 --max-tokens 20", "t", "expanded-query"),
        ]
    ),
)
@pytest.mark.usefixtures("mended_mbart_task")
def test_interactive_with_empty_lines(workspace, setup, checkpoint, options, prefix, plan):
    if setup in ("denoising", "lm") and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    lines = compare(
        workspace,
        setup,
        checkpoint,
        *options.split(),
        plan=plan,
        command="interactive",
        stdin=LINES.format(prefix),
    )
    assert sum(line.startswith("S-") for line in lines) == 5


@pytest.mark.parametrize(
    ("kind", "plan"), [("ordered", "expanded-query"), ("unordered", "shared-projection")]
)
def test_lexical_constraints(workspace, kind, plan):
    lines = compare(
        workspace,
        "translation",
        "transformer",
        *("--constraints", kind, "--beam", "6", "--buffer-size", "3", "--batch-size", "3"),
        plan=plan,
        command="interactive",
        stdin="s3 s1 s4\tt9\tt2\n\ns6 s5\ns1 s2 s3 s4\tt7 t8\n",
    )
    first, *_, last = hypotheses(lines)
    assert {"t9", "t2"} <= set(first)
    assert ("t7", "t8") in set(itertools.pairwise(last))


def test_twin_of_the_mbart_task_works_where_fairseqs_own_fails(workspace):
    arguments = workspace.generation("mbart", "mbart")
    with pytest.raises(AttributeError, match="args"):
        run("generate", *arguments)
    arguments = workspace.generation("mbart", "mbart", plan="auto")
    assert len(hypotheses(run("generate", *arguments))) == 13


def test_padded_batches_of_post_norm_encoders(workspace, tmp_path):
    # fairseq 0.12.2 cannot encode these with today's torch, other than one sentence at a time.
    training = [word for word in workspace.training("transformer") if "normalize" not in word]
    run("train", *training, "--save-dir", str(tmp_path))
    options = ["--path", str(tmp_path / "checkpoint_last.pt")]
    alone = [*workspace.generation("translation", "transformer", *options), "--batch-size", "1"]
    together = workspace.generation("translation", "transformer", *options, plan="auto")
    assert_same_lines(
        by_sentence(run("generate", *alone)), by_sentence(run("generate", *together)), together
    )


def test_unknown_options_of_a_plan_are_refused(workspace, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("generate", *workspace.generation("translation", "transformer", plan="no-such-plan"))
    assert "expanded-query" in capsys.readouterr().err


@pytest.fixture
def user_dir_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets fairseq forget which --user-dir it has seen."""
    monkeypatch.setattr(utils.import_user_module, "memo", set(), raising=False)


@pytest.mark.parametrize("spelling", ["absolute", "relative", "slash", "dots", "link", "linked"])
@pytest.mark.usefixtures("user_dir_memory")
def test_user_dir_under_any_name_after_import(spelling, tmp_path, monkeypatch):
    (tmp_path / "folder").symlink_to(Path(USER_DIR).parent)
    (tmp_path / "el_attention").symlink_to(USER_DIR)
    monkeypatch.chdir(tmp_path)
    path = {
        "absolute": USER_DIR,
        "relative": os.path.relpath(USER_DIR),
        "slash": USER_DIR + "/",
        "dots": f"{USER_DIR}/../el_attention",
        "link": "el_attention",
        "linked": "folder/el_attention",
    }[spelling]
    for _ in range(2):
        utils.import_user_module(Namespace(user_dir=path))


@pytest.mark.usefixtures("user_dir_memory")
def test_another_folder_of_the_same_name_is_refused(tmp_path):
    (tmp_path / "el_attention").mkdir()
    with pytest.raises(ImportError, match="not globally unique"):
        utils.import_user_module(Namespace(user_dir=str(tmp_path / "el_attention")))


def subprocess_of(command: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Starts a fairseq command of its own, which finds the plugin by --user-dir alone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.Popen(
        [sys.executable, "-m", f"fairseq_cli.{command}", *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_of_its_own_with_a_relative_linked_user_dir(workspace, tmp_path):
    (tmp_path / "el_attention").symlink_to(USER_DIR)
    arguments = workspace.generation(
        "translation", "transformer", "--user-dir", "el_attention/", plan="expanded-query"
    )
    process = subprocess_of("interactive", *arguments, cwd=tmp_path)
    out, err = process.communicate(LINES.format("s"), timeout=300)
    assert process.returncode == 0, err
    reference = workspace.generation("translation", "transformer")
    stock = run_once("interactive", *reference, stdin=LINES.format("s"))
    ours = [line for line in out.splitlines() if re.match(r"[SHDP]-\d", line)]
    assert_same_lines(stock, ours, arguments)


def test_an_error_in_one_batch_loses_no_hypotheses_of_earlier_ones(workspace, tmp_path):
    # The last batch has a word that no dictionary knows.
    symbols = Dictionary.load(str(workspace.root / "pair" / "dict.src.txt"))
    for name in ("dict.src.txt", "dict.tgt.txt"):
        (tmp_path / name).write_text((workspace.root / "pair" / name).read_text())
    sentences = [[5], [6, 7], [8, 9, 10, len(symbols) + 99]]
    binarize(tmp_path / "test.src-tgt.src", sentences, symbols)
    _, *arguments = workspace.generation("translation", "transformer", plan="expanded-query")
    options = ["--batch-size", "1", "--required-batch-size-multiple", "1"]
    process = subprocess_of("generate", str(tmp_path), *arguments, *options, cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "IndexError" in err
    assert len(hypotheses(out.splitlines())) == 2


def test_ngram_blocking_works_where_stock_does_nothing(workspace):
    options = ["--no-repeat-ngram-size", "1"]
    stock = run("generate", *workspace.generation("translation", "transformer", *options))
    ours = run(
        "generate", *workspace.generation("translation", "transformer", *options, plan="auto")
    )
    assert any(len(set(words)) < len(words) for words in hypotheses(stock))
    assert all(len(set(words)) == len(words) for words in hypotheses(ours))
