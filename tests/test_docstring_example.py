"""The parts of examples/docstring_summarization, without training."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "docstring_summarization"
sys.path.insert(0, str(EXAMPLE))
build_data = importlib.import_module("build_data")
measure_state = importlib.import_module("measure_state")
report = importlib.import_module("report")
run_measured = importlib.import_module("run_measured")

BODY = "The rest of this docstring has enough words to be a document of number"


# --- data ---


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("one\n  two\tthree", "one two three"),
        ("See :class:`~a.b.C` and ``code``.", "See a.b.C and code."),
        ("Parameters\n----------\nx : int", "Parameters x : int"),
        (".. note:: gone\n\nkept", "kept"),
        ("before\n>>> f(1)\n... + 2\n[3,\n4]\n\nafter", "before after"),
        ("a ... b", "a ... b"),
    ],
)
def test_clean(text, cleaned):
    assert build_data.clean(text) == cleaned


def test_summary_is_the_first_paragraph():
    pair = build_data.split_docstring(f"Sum the values\n    of a list.\n\n{BODY} one.\n\nMore.")
    assert pair == (f"{BODY} one. More.", "Sum the values of a list.")


@pytest.mark.parametrize(
    "docstring",
    [
        f"Too short.\n\n{BODY}",
        f"{'A summary that does not end ' * 8}\n\n{BODY}",
        "The document is too short.\n\nOnly four words here.",
        "There is no document at all.",
        f"function(a, b) -> computes a thing\n\n{BODY}",
        f"* an item of a list\n\n{BODY}",
        f">>> a doctest comes first here\n\n{BODY}",
        " \n ",
    ],
)
def test_unusable_docstrings(docstring):
    assert build_data.split_docstring(docstring) is None


def test_long_documents_are_cut():
    document, _ = build_data.split_docstring("A summary of four words.\n\n" + "word " * 5000)
    assert len(document.split()) == build_data.MAX_DOCUMENT_WORDS


def write_package(root: Path, name: str, functions: range) -> None:
    """A package with a docstring for each number; importing it fails."""
    lines = ['raise RuntimeError("imported")']
    for number in functions:
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        docstring = f"Compute the value of {word}.\n\n    {BODY} {word}.\n    "
        lines.append(f'if True:\n  class C{number}:\n    def f(self):\n      """{docstring}"""')
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text("\n".join(lines))


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "packages"
    write_package(root, "alpha", range(150))
    write_package(root, "beta", range(100, 300))  # a third are alpha's
    write_package(root, "beta/tests", range(1000, 1100))
    write_package(root, "el_attention", range(2000, 2100))
    (root / "gamma.py").write_text("'''x'''\nprint 'Python 2'")
    return root


def built(roots, output):
    provenance = build_data.build(roots, output, workers=1)
    return provenance, {path.name: path.read_bytes() for path in output.iterdir()}


def test_build(packages, tmp_path):
    provenance, files = built([packages], tmp_path / "one")
    counts = {name: entry["pairs"] for name, entry in provenance["packages"].items()}
    assert counts == {"alpha": 150, "beta": 150}
    assert provenance["duplicates_dropped"] == 50
    assert "SyntaxError" in provenance["files_not_parsed"]["gamma.py"]
    assert json.loads(files.pop("provenance.json")) == provenance
    lines = {name: text.decode().splitlines() for name, text in files.items()}
    for split in build_data.SPLITS:
        sources, targets = lines[f"{split}.source"], lines[f"{split}.target"]
        assert len(sources) == len(targets) == provenance["pairs"][split] > 0
        assert all(s.split()[-1] == t.split()[-1] for s, t in zip(sources, targets, strict=True))
    sources = [line for split in build_data.SPLITS for line in lines[f"{split}.source"]]
    assert len(sources) == len(set(sources)) == 300


def test_build_is_deterministic(packages, tmp_path):
    _, first = built([packages], tmp_path / "one")
    _, second = built([packages], tmp_path / "two")
    assert first == second


def test_another_package_moves_no_pair(packages, tmp_path):
    _, before = built([packages], tmp_path / "one")
    write_package(packages, "aaa", range(5000, 5200))
    _, after = built([packages], tmp_path / "two")
    for split in build_data.SPLITS:
        name = f"{split}.source"
        assert set(before[name].splitlines()) <= set(after[name].splitlines())


def test_empty_split_is_an_error(tmp_path):
    write_package(tmp_path / "root", "alpha", range(2))
    with pytest.raises(ValueError, match=r"2 pairs found in 1 files"):
        build_data.build([tmp_path / "root"], tmp_path / "out", workers=1)


# --- report ---


def generated(hypotheses, speed="1,234.50"):
    """What fairseq-generate prints, for {sentence: (score, tokens)}."""
    lines = []
    for sentence, (score, tokens) in hypotheses.items():
        text = tokens.replace(" ", "").replace("▁", " ").strip()
        lines += [
            f"S-{sentence}\tsource",
            f"T-{sentence}\ttarget",
            f"H-{sentence}\t{score}\t{tokens}",
        ]
        lines += [f"D-{sentence}\t{score}\t{text}", f"P-{sentence}\t-0.5 -0.25"]
    count = len(hypotheses)
    lines.append(
        f"2026-01-01 | INFO | fairseq_cli.generate | Translated {count:,} sentences (1,999 tokens) "
        f"in 5.0s ({speed} sentences/s, 9,876.00 tokens/s)"
    )
    return "\n".join(lines) + "\n"


HYPOTHESES = {
    1: (-1.5, "▁Return ▁the ▁sum ."),
    0: (-0.5, "▁Comp ute ▁H-1 ."),
    2: (-2.0, "▁Tabs \u2028 ▁are ▁not ▁lines"),
}


def test_parse_output():
    output = report.parse_output(generated(HYPOTHESES))
    assert list(output.hypotheses) == [0, 1, 2]
    assert output.samples_per_second == 1234.5
    assert output.hypotheses[0] == report.Hypothesis("▁Comp ute ▁H-1 .", "Compute H-1.", -0.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("Translated", "", "did not finish"), ("H-1\t", "", "expected 3 H and D lines, found 2 H")],
)
def test_incomplete_output(old, new, message):
    with pytest.raises(ValueError, match=message):
        report.parse_output(generated(HYPOTHESES).replace(old, new))


def test_differences():
    baseline = report.parse_output(generated(HYPOTHESES))
    assert report.differences(baseline, baseline) == []
    tie = report.parse_output(generated(HYPOTHESES | {1: (-1.500001, "▁Return ▁a ▁sum .")}))
    other = report.parse_output(generated(HYPOTHESES | {2: (-2.1, "▁Tab s")}))
    assert [(d.sentence, d.is_tie) for d in report.differences(baseline, tie)] == [(1, True)]
    assert [(d.sentence, d.is_tie) for d in report.differences(baseline, other)] == [(2, False)]
    rescored = report.parse_output(generated(HYPOTHESES | {2: (-3.0, HYPOTHESES[2][1])}))
    assert report.differences(baseline, rescored) == []
    fewer = report.parse_output(generated({0: HYPOTHESES[0]}))
    with pytest.raises(ValueError, match=r"one of two outputs only: \[1, 2\]"):
        report.differences(baseline, fewer)


def test_rouge():
    references = ["Compute H-1.", "Return the product.", "unrelated"]
    scores = report.rouge(report.parse_output(generated(HYPOTHESES)), references)
    assert scores["rouge1"] == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)


@pytest.fixture
def run_report(tmp_path, monkeypatch):
    """Runs report.py on a baseline and another system with the given hypotheses."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.source").write_text("first document\nsecond\nthird\n")
    (data / "test.target").write_text("Compute H-1.\nReturn the sum.\nTabs\n")

    def run(other, documents=3):
        for name, hypotheses in (("stock", HYPOTHESES), ("other", other)):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "stdout").write_text(generated(hypotheses))
            (folder / "stderr").write_text("")
            (folder / "run.json").write_text('{"peak_rss_bytes": 1048576}')
            state = {"state_bytes_per_sentence": 2048.0, "sentences": 3, "source_length": 7}
            (folder / "state.json").write_text(json.dumps(state))
        systems = [f"{name}={tmp_path / name}" for name in ("stock", "other")]
        monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "out"), str(data), *systems])
        # The environment of the tests need not hold an installed package.
        monkeypatch.setattr(report, "machine", lambda: {"torch": "9.9"})
        status = report.main()
        return SimpleNamespace(
            status=status,
            text=(tmp_path / "out" / "report.md").read_text(),
            record=json.loads((tmp_path / "out" / "report.json").read_text()),
        )

    return run


def test_report_of_equal_systems(run_report):
    result = run_report(HYPOTHESES)
    assert result.status == 0
    assert "| other | 1234.50 | 2.0 | 1 |" in result.text
    assert "reference:  Return the sum." in result.text
    assert [row["differing"] for row in result.record["rows"]] == [0, 0]
    assert result.record["machine"] == {"torch": "9.9"}


def test_report_shows_a_tie(run_report):
    result = run_report(HYPOTHESES | {1: (-1.500001, "▁Return ▁a ▁sum .")})
    assert result.status == 0
    assert "Sentence 1 differs (a tie)" in result.text


def test_report_fails_on_a_difference(run_report, capsys):
    result = run_report(HYPOTHESES | {1: (-1.6, "▁Return ▁a ▁sum .")})
    assert result.status == 1
    assert "Sentence 1 differs (NOT A TIE)" in result.text
    assert "1 hypotheses differ from stock's" in capsys.readouterr().err


def test_report_wants_every_document(run_report, monkeypatch):
    monkeypatch.setitem(HYPOTHESES, 3, (-1.0, "▁More ▁than ▁documents"))
    with pytest.raises(ValueError, match="4 hypotheses for 3 documents"):
        run_report(HYPOTHESES)


# --- measurements ---


def test_run_measured(tmp_path):
    hold = "b = bytearray(200 << 20); b[::4096] = b'x' * len(b[::4096]); print('done')"
    # In a process of its own: this one holds torch, and a child inherits its parent's peak.
    command = [EXAMPLE / "run_measured.py", tmp_path, "--", sys.executable, "-c", hold]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    assert (tmp_path / "stdout").read_text() == "done\n"
    record = json.loads((tmp_path / "run.json").read_text())
    assert 200 << 20 <= record["peak_rss_bytes"] < 300 << 20
    assert record["wall_seconds"] > 0


def test_run_measured_reports_failure(tmp_path, capfd):
    command = [sys.executable, "-c", "import sys; sys.exit('no such checkpoint')"]
    assert run_measured.run(command, tmp_path) == 1
    assert not (tmp_path / "run.json").exists()
    assert "no such checkpoint" in capfd.readouterr().err


@dataclass
class Holder:
    held: object


class Slotted:
    __slots__ = ("held",)


def test_storages_counts_each_storage_once():
    big, small = torch.zeros(10), torch.zeros(3, dtype=torch.int64)
    slotted = Slotted()
    slotted.held = small
    holder = Holder([big[2:4], {"key": slotted}, (big.view(2, 5), None, "text", 1.5)])
    holder.held.append(holder)  # a cycle
    linear = nn.Linear(100, 100)
    holder.held.append(linear)
    found = measure_state.storages({"a": holder, "b": deque([torch.ones(1)])}, big)
    assert sorted(found.values()) == [4, 24, 40]


def test_spy_keeps_the_peak_and_leaves_out_parameters():
    linear = nn.Linear(4, 4, bias=False)
    sizes = iter([2, 8, 4])

    def forward(tokens, encoder_outs, incremental_states, temperature):
        incremental_states[0]["state"] = [torch.zeros(next(sizes)), linear.weight.view(-1)]
        return temperature

    spy = measure_state.Spy(forward, linear)
    states = [{}]
    for _ in range(3):
        assert spy(torch.zeros(1, 1), [{"encoder_out": [torch.zeros(5)]}], states, 0.5) == 0.5
    assert spy.peak == 4 * (5 + 8)


# --- run.sh ---


@pytest.fixture
def run_sh(tmp_path):
    """Runs run.sh with stand-ins for the commands it calls; `broken` ones fail."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def stand_in(name, script):
        (commands / name).write_text(f"#!/bin/bash\n{script}\n")
        (commands / name).chmod(0o755)

    def run(broken=(), **environment):
        fail = 'echo "simulated failure"; exit 3'
        report_file = f"{tmp_path}/work/full/report/report.md"
        stand_in("python", f'case $1 in *report.py) echo THE REPORT >"{report_file}" ;; esac')
        stand_in("el-attention", f'echo "{tmp_path}"')
        for name in ("fairseq-preprocess", "fairseq-train"):
            stand_in(name, fail if name in broken else "true")
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "DEMO_WORK": str(tmp_path / "work")} | environment
        return subprocess.run(
            [str(EXAMPLE / "run.sh")], env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def test_run_sh_resumes_at_the_step_that_failed(run_sh, tmp_path):
    failed = run_sh(broken=["fairseq-train"])
    assert failed.returncode != 0
    assert "simulated failure" in failed.stderr
    assert f"step train failed; see above, or all of it in {tmp_path}/work/full/train/log" in (
        failed.stderr
    )
    (tmp_path / "work/full/train/checkpoint").touch()
    resumed = run_sh()
    assert resumed.returncode == 0, resumed.stderr
    assert "[data] already complete" in resumed.stdout
    assert "[train]\n" in resumed.stdout
    assert "THE REPORT" in resumed.stdout
    assert (tmp_path / "work/full/train/checkpoint").exists()
    again = run_sh()
    assert again.stdout.count("already complete") == 8


def test_run_sh_wants_a_known_profile(run_sh):
    result = run_sh(DEMO_PROFILE="quick")
    assert result.returncode == 2
    assert 'DEMO_PROFILE is "quick"; expected full or smoke' in result.stderr
