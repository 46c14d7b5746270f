"""The acceptance on a GPU goes on after what fails, and says so in its table."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def accept(monkeypatch) -> ModuleType:
    """The module scripts/gpu/accept.py."""
    spec = importlib.util.spec_from_file_location("accept", ROOT / "scripts" / "gpu" / "accept.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "accept", module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def python(accept: ModuleType, name: str, code: str, seconds: float = 20, **more):
    command = (sys.executable, "-c", code)
    return accept.Step(name, command, (sys.executable, "-c", "print('rehearsed')"), seconds, **more)


HANGS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


@pytest.fixture
def planted(accept, monkeypatch) -> ModuleType:
    """Parts of steps that pass, fail, hang, and lack a program."""
    a = [
        python(accept, "right", "print('summary: 3 | right'); print('more')"),
        python(accept, "wrong", "print('two'); raise SystemExit(3)"),
        python(accept, "hanging", HANGS, 1.5),
        python(accept, "lacking", "", needs=("no-such-program",)),
        accept.Step("absent", ("/no/such/command",), ("/no/such/command",), 5),
        python(
            accept, "last", "import os; print(os.environ['COLOUR'])", environment={"COLOUR": "b"}
        ),
    ]
    b = [python(accept, "timed", "print('| batch | µs |'); print('|---|---|'); print('| 1 | 2 |')")]
    monkeypatch.setattr(accept, "steps", lambda out, wheels: {"A": a, "B": b, "C": []})
    return accept


def test_every_step_is_run_and_in_the_table(planted, tmp_path, capsys) -> None:
    assert planted.main([str(tmp_path)]) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert {r["name"]: r["verdict"] for r in results} == {
        "right": "passed",
        "wrong": "failed",
        "hanging": "out of time",
        "lacking": "skipped",
        "absent": "failed",
        "last": "passed",
        "timed": "passed",
        "fairseq": "skipped",
    }
    summaries = {r["name"]: r["summary"] for r in results}
    assert summaries["right"] == "3 / right" and summaries["wrong"] == "two"
    assert summaries["last"] == "b" and summaries["lacking"] == "there is no no-such-program"
    table = (tmp_path / "TABLE.md").read_text()
    assert capsys.readouterr().out.endswith(f"\n{table}")
    assert "| A | hanging | out of time |" in table and table.endswith("|---|---|\n| 1 | 2 |\n")
    assert json.loads((tmp_path / "A-right.json").read_text())["verdict"] == "passed"


def test_a_part_ends_in_time(planted, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(planted, "PART_SECONDS", 0.5)
    planted.main([str(tmp_path), "--parts", "A"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {r["summary"] for r in results[-2:]} == {"the time of its part is over"}


def test_a_dry_run_runs_rehearsals(planted, tmp_path) -> None:
    assert planted.main([str(tmp_path), "--parts", "B", "--dry-run"]) == 0
    assert (tmp_path / "B-timed.log").read_text() == "rehearsed\n"


@pytest.mark.parametrize("arguments", [["--parts", "AD"], ["--wheels", "/no/such/folder"]])
def test_wrong_arguments_are_refused(accept, tmp_path, arguments) -> None:
    with pytest.raises(SystemExit):
        accept.main([str(tmp_path), *arguments])


def test_limits_of_steps_are_below_those_of_their_part(accept, tmp_path) -> None:
    for steps in accept.steps(tmp_path, tmp_path).values():
        assert steps and all(0 < step.seconds <= accept.PART_SECONDS for step in steps)
        assert len({step.name for step in steps}) == len(steps)


def test_the_pack_without_wheels_is_the_source(tmp_path) -> None:
    subprocess.run(
        [ROOT / "scripts" / "gpu" / "pack.sh", tmp_path, "--no-wheels"], check=True, timeout=60
    )
    with tarfile.open(tmp_path / "el_attention.tar.gz") as archive:
        names = archive.getnames()
    assert "setup.py" in names and "csrc/cuda/launch.cu" in names
