"""Processes that generate: what one of them suffers ends neither the run nor a row of another."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora import FAILS, FILLS_DISK, KILLS, KILLS_ONCE, ROWS, Echo, read_rows, write_rows
from el_attention.corpus import Recipe, Source, generate, run
from el_attention.corpus.processes import Processes, pin

# Forked, which needs no new interpreter: they have nothing to load.
FORKED = partial(Processes, start_method="fork")


@pytest.fixture(autouse=True)
def echo(monkeypatch) -> None:
    """Engines that need no model."""
    monkeypatch.setattr(run, "Engine", Echo)
    monkeypatch.setattr(run, "Processes", FORKED)
    monkeypatch.setattr(run, "WINDOW", 7)


def generated(folder: Path, rows: Any, name: str, workers: int | None = 2) -> list[dict[str, Any]]:
    source = Source(write_rows(folder / "rows.jsonl", rows), id_column="key")
    generate(Recipe(str(folder)), source, folder / name, workers=workers, memory_budget=9)
    return read_rows(folder / name)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_several_processes_find_what_one_does(workers, tmp_path) -> None:
    expected = generated(tmp_path, ROWS, "one.jsonl", workers=None)
    assert generated(tmp_path, ROWS, "several.jsonl", workers) == expected


def test_a_worker_that_dies_is_replaced_and_its_batch_is_the_same(tmp_path, caplog) -> None:
    rows = [*ROWS, {"key": "odd", "text": f"w1 {KILLS_ONCE}"}]
    found = generated(tmp_path, rows, "killed.jsonl")
    assert "a worker died while it generated for rows" in caplog.text
    assert "killed by SIGKILL" in caplog.text
    assert found == generated(tmp_path, rows, "whole.jsonl")


class Fragile(Echo):
    """An engine that dies when it is to fix batches: each time, or but once."""

    def fix(self, *arguments: Any) -> Any:
        flag = Path(self._recipe.model) / KILLS_ONCE
        if not flag.exists():
            if KILLS_ONCE in self._recipe.options:
                flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fix(*arguments)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_with_other_work_is_replaced(workers, tmp_path, monkeypatch) -> None:
    expected = generated(tmp_path, ROWS, "one.jsonl", workers=None)
    monkeypatch.setattr(run, "Engine", Fragile)
    source = Source(tmp_path / "rows.jsonl", id_column="key")
    out = tmp_path / "out.jsonl"
    with pytest.raises(RuntimeError, match="worker 1 died: killed by SIGKILL"):
        generate(Recipe(str(tmp_path)), source, out, workers=workers, memory_budget=9)
    recipe = Recipe(str(tmp_path), options={KILLS_ONCE: True})
    generate(recipe, source, tmp_path / "two.jsonl", workers=workers, memory_budget=9)
    assert read_rows(tmp_path / "two.jsonl") == expected


class FragileLater(Echo):
    """An engine that dies once, in a window that is not the first."""

    def fix(self, texts: Any, memory_budget: int) -> Any:
        flag = Path(self._recipe.model) / KILLS_ONCE
        if 0 not in texts and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fix(texts, memory_budget)


def test_a_worker_that_dies_while_others_generate_is_replaced(tmp_path, monkeypatch) -> None:
    """The second window is fixed while the batches of the first are generated."""
    expected = generated(tmp_path, ROWS, "one.jsonl", workers=None)
    monkeypatch.setattr(run, "Engine", FragileLater)
    assert generated(tmp_path, ROWS, "two.jsonl") == expected
    assert (tmp_path / KILLS_ONCE).exists()


@pytest.mark.parametrize(
    ("word", "reason"), [(KILLS, "killed by SIGKILL"), (FAILS, "RuntimeError: CUDA error: the")]
)
def test_a_row_that_kills_every_worker_is_isolated(word, reason, tmp_path) -> None:
    rows: list[dict[str, Any]] = [*ROWS[:9], {"key": "odd", "text": word}, *ROWS[9:]]
    found = generated(tmp_path, rows, "out.jsonl")
    odd = found.pop(9)
    assert (odd["id"], odd["hypotheses"]) == ("odd", [])
    assert odd["reason"].startswith("every worker that generates for it dies: ")
    assert reason in odd["reason"]
    expected = generated(tmp_path, ROWS, "expected.jsonl")
    assert [row["hypotheses"] for row in found] == [row["hypotheses"] for row in expected]
    assert {row["reason"] for row in found} == {None}


def test_a_full_disk_of_a_worker_ends_the_run_and_loses_nothing(tmp_path) -> None:
    rows = [*ROWS, {"key": "odd", "text": FILLS_DISK}]
    with pytest.raises(OSError, match=r"worker \d: OSError: \[Errno 28\] No space left on device"):
        generated(tmp_path, rows, "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / FILLS_DISK).touch()
    found = generated(tmp_path, rows, "out.jsonl")
    assert found == generated(tmp_path, rows, "expected.jsonl") and len(found) == len(rows)


class Unloadable(Echo):
    """An engine whose model does not load in some of the workers."""

    def __init__(self, recipe: Recipe, worker: int = 0) -> None:
        if str(worker) in recipe.model:
            raise ValueError("model x: cannot be loaded: it is none")
        super().__init__(recipe, worker)


@pytest.mark.parametrize("where", ["012", "12"])
def test_a_model_that_does_not_load_is_one_clear_error(where, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "Engine", Unloadable)
    source = Source(write_rows(tmp_path / "rows.jsonl", ROWS), id_column="key")
    first = f"worker {int(where[0]) + 1}: ValueError: model x: cannot be loaded: it is none"
    with pytest.raises(RuntimeError, match=first):
        generate(Recipe(where), source, tmp_path / "out.jsonl", workers=3, memory_budget=9)


def test_processes_have_cores_of_their_own(monkeypatch) -> None:
    cores: list[set[int]] = []
    threads: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(10, 18)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, own: cores.append(set(own)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert [len(pin(worker, 3)) for worker in range(3)] == [2, 3, 3]
    assert set().union(*cores) == set(range(10, 18)) and sum(map(len, cores)) == 8
    assert threads == [2, 3, 3]
    assert pin(0, 1) == [*range(10, 18)] and threads[-1] == 4
    assert [pin(worker, 9)[0] for worker in (0, 8)] == [10, 17]
