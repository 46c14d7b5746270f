"""Sessions of fairseq-interactive go on after a line that cannot be answered."""

from __future__ import annotations

import logging
import re

import pytest

from clidata import SINGLE_SENTENCES, Workspace, run
from crossed import crossed
from faults import Memory
from printed import assert_same_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

POSITIONS = 40  # of the models of `clidata`, an eos included
LINES = ["{0}3 {0}1 {0}4 {0}1 {0}5", "{0}2 {0}7", "", "{0}6 {0}1 {0}9"]

TASKS = [
    ("translation", "transformer", "", "s"),
    ("joint", "bart", "", "w"),
    ("denoising", "bart", "--max-len-b 20", "w"),
    ("mbart", "mbart", "", "w"),
    ("multi", "multi", "-s en -t de", "w"),
    ("lm", "lm", "", "t"),
]
# How lines come into batches: one by one, by number, by tokens, by memory.
BATCHES = [
    "",
    "--buffer-size 5 --batch-size 3",
    "--buffer-size 5 --max-tokens 100",
    "--buffer-size 3 --batch-by-memory",
]


def numbered(lines: list[str]) -> dict[int, list[str]]:
    """What is printed about each sentence, without its number."""
    sentences: dict[int, list[str]] = {}
    for line in lines:
        match = re.fullmatch(r"([A-Z])-(\d+)(.*)", line)
        assert match
        sentences.setdefault(int(match[2]), []).append(match[1] + match[3])
    return sentences


def session(
    workspace: Workspace, setup: str, checkpoint: str, options: str, *lines: str
) -> dict[int, list[str]]:
    arguments = workspace.generation(setup, checkpoint, *options.split(), plan="auto")
    return numbered(run("interactive", *arguments, stdin="\n".join(lines) + "\n"))


@pytest.mark.parametrize(
    ("setup", "checkpoint", "options", "prefix", "batches"), crossed(TASKS, BATCHES)
)
def test_a_line_that_is_too_long_is_refused_and_the_others_are_answered(
    workspace, caplog, setup, checkpoint, options, prefix, batches
):
    if setup in ("denoising", "lm") and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    short = [line.format(prefix) for line in LINES]
    long = " ".join([f"{prefix}{i % 9}" for i in range(60)])
    reference = session(workspace, setup, checkpoint, options, *short)
    mixed = [short[0], short[1], long, short[2], long + f" {prefix}1", short[3]]
    with caplog.at_level(logging.WARNING):
        found = session(workspace, setup, checkpoint, f"{options} {batches}", *mixed)
    assert list(found) == list(range(6))
    for ours, theirs in ((0, 0), (1, 1), (3, 2), (5, 3)):
        assert_same_lines(
            [line for line in reference[theirs] if line[0] != "W"],
            [line for line in found[ours] if line[0] != "W"],
            ["fairseq-interactive"],
        )
    for number in (2, 4):
        source, hypothesis, *_ = (line for line in found[number] if line[0] in "SH")
        words = [word for word in source.split("\t")[1].split() if word[0] == prefix]
        assert words[:60] == long.split()
        assert hypothesis == "H\t-inf\t"
    refusals = [r.getMessage() for r in caplog.records if "is answered with" in r.getMessage()]
    assert len(refusals) == 2
    assert all(long[:40] in refusal for refusal in refusals)
    assert all(f"at most {POSITIONS} tokens" in refusal for refusal in refusals)


@pytest.mark.parametrize(("setup", "checkpoint", "options", "prefix"), TASKS)
def test_lines_about_as_long_as_the_positions_are_answered_or_refused(
    workspace, setup, checkpoint, options, prefix
):
    if setup in ("denoising", "lm") and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    lengths = range(POSITIONS - 2, POSITIONS + 2)
    lines = [" ".join([f"{prefix}{i % 9}" for i in range(tokens - 1)]) for tokens in lengths]
    found = session(workspace, setup, checkpoint, options, *lines)
    added = setup in ("mbart", "multi")  # the token of a language
    for tokens, printed in zip(lengths, found.values(), strict=True):
        (hypothesis,) = (line for line in printed if line[0] == "H")
        assert (hypothesis == "H\t-inf\t") == (tokens + added > POSITIONS)


GENERATION = ("task.py", "inference_step")


@pytest.mark.parametrize(
    "batches", crossed(["", "--buffer-size 5 --batch-size 3", "--buffer-size 3 --batch-by-memory"])
)
def test_a_line_that_does_not_fit_in_memory_is_refused_and_the_others_are_answered(
    workspace, caplog, tmp_path, batches
):
    arguments = ("translation", "transformer", f"--max-len-b 9 {batches}")
    large = " ".join([f"s{i % 9}" for i in range(35)])
    short = [line.format("s") for line in LINES]
    lines = [short[0], large, *short[1:]]
    with Memory(stage=GENERATION) as watched:
        alone = session(workspace, *arguments[:2], "--max-len-b 9", *short)
    arguments = (*arguments[:2], f"{arguments[2]} --journal {tmp_path / 'journal'}")
    with caplog.at_level(logging.WARNING), Memory(stage=GENERATION, limit=watched.largest):
        found = session(workspace, *arguments, *lines)
    refusals = [r.getMessage() for r in caplog.records if "is answered with" in r.getMessage()]
    assert len(refusals) == 1
    assert refusals[0].startswith(f"line '{large[:60]}...': out of memory with this sentence alone")
    assert list(found) == [0, 1, 2, 3, 4]
    assert hypotheses(found[1]) == [["-inf", ""]]
    # The refusal is not recorded: with more memory there is an answer.
    more = session(workspace, *arguments, *lines)
    assert hypotheses(more[1])[0][1]
    for answered in (found, more):
        answered = [answered[number] for number in (0, 2, 3, 4)]
        for ours, theirs in zip(answered, alone.values(), strict=True):
            assert [h[1] for h in hypotheses(ours)] == [h[1] for h in hypotheses(theirs)]


def hypotheses(printed: list[str]) -> list[list[str]]:
    """Scores and words of the hypotheses of a sentence."""
    return [line.split("\t")[1:] for line in printed if line[0] == "H"]


def test_skipping_long_lines_keeps_their_numbers(workspace):
    options = "--skip-invalid-size-inputs-valid-test"
    long = " ".join(["s1"] * 60)
    found = session(workspace, "translation", "transformer", options, "s1 s2", long, "s3")
    assert list(found) == [0, 1, 2]


@pytest.mark.parametrize("option", ["--nbest 2", "--print-alignment", "--replace-unk"])
def test_refused_lines_are_printed_with_any_output(workspace, option, tmp_path):
    if option == "--replace-unk":
        (tmp_path / "dictionary").write_text("s1 t1\n")
        option = f"--replace-unk {tmp_path / 'dictionary'}"
    found = session(workspace, "translation", "transformer", option, " ".join(["s1"] * 60), "s3")
    assert list(found) == [0, 1]


def test_a_line_of_more_tokens_than_a_batch_may_have_is_answered(workspace, caplog):
    line = "s1 s2 s3 s4 s5 s6 s7"
    alone = session(workspace, "translation", "transformer", "", line, "s3")
    options = "--max-tokens 5 --buffer-size 2"
    with caplog.at_level(logging.WARNING):
        found = session(workspace, "translation", "transformer", options, line, "s3")
    assert [[line for line in lines if line[0] in "SH"] for lines in found.values()] == [
        [line for line in lines if line[0] in "SH"] for lines in alone.values()
    ]
    assert "8 tokens exceed --max-tokens 5" in caplog.text


def test_constraints_follow_their_lines_past_a_refused_one(workspace):
    long = " ".join(["s1"] * 60)
    options = "--constraints --beam 6 --buffer-size 3 --batch-size 3"
    found = session(
        workspace, "translation", "transformer", options, "s3 s1\tt9", f"{long}\tt4", "s6\tt2"
    )
    assert ["C\tt9" in found[0], "C\tt4" in found[1], "C\tt2" in found[2]] == [True] * 3
    assert [line for line in found[1] if line[0] == "H"] == ["H\t-inf\t"]
    assert "t2" in next(line for line in found[2] if line[0] == "H")


@pytest.mark.skipif(not SINGLE_SENTENCES, reason="fairseq reads np.compat, which numpy 2 has not")
def test_a_word_that_was_printed_before_is_unknown_as_without_it(workspace):
    options = "--post-process sentencepiece --max-len-b 20 --buffer-size 1"
    first = session(workspace, "denoising", "bart", options, LINES[0].format("w"))
    (word,) = (line.split("\t")[2] for line in first[0] if line[0] == "H")
    (alone,) = session(workspace, "denoising", "bart", options, word).values()
    found = session(workspace, "denoising", "bart", options, LINES[0].format("w"), word)
    assert [line for line in found[1] if line[0] in "HP"] == [
        line for line in alone if line[0] in "HP"
    ]


def test_soft_alignments_which_cannot_be_printed_are_refused(workspace):
    with pytest.raises(ValueError, match=r"--print-alignment: expected 'hard', got 'soft'"):
        session(workspace, "translation", "transformer", "--print-alignment soft", "s1")
