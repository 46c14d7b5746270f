"""Actors of Ray: what one of them suffers ends neither the run nor a row of another."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpora import KILLS, KILLS_ONCE, ROWS, Echo, read_rows, write_rows
from el_attention.corpus import Recipe, Source, generate, run


def generated(folder: Path, rows: Any, name: str, **more: Any) -> list[dict[str, Any]]:
    source = Source(write_rows(folder / "rows.jsonl", rows), id_column="key")
    recipe = Recipe(str(folder), device="cpu")
    generate(recipe, source, folder / name, memory_budget=9, **more)
    return read_rows(folder / name)


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """Ray on this machine, with two cores, and engines that need no model."""
    ray = pytest.importorskip("ray", reason="of the extra `ray`")
    monkeypatch.setattr(run, "Engine", Echo)
    path = [str(Path(__file__).parents[1] / "helpers"), os.environ.get("PYTHONPATH", "")]
    helpers = {"PYTHONPATH": os.pathsep.join(path)}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": helpers},
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_actors_find_what_one_process_does_whatever_happens_to_them(cluster, tmp_path) -> None:
    once = {"key": "once", "text": f"w1 {KILLS_ONCE}"}
    odd = {"key": "odd", "text": f"w2 {KILLS}"}
    found = generated(tmp_path, [*ROWS, once, odd], "ray.jsonl", workers=2, engine="ray")
    assert (tmp_path / KILLS_ONCE).exists()
    assert found.pop()["reason"].startswith("every worker that generates for it dies: ")
    expected = generated(tmp_path, [*ROWS, once], "expected.jsonl")
    assert [row["hypotheses"] for row in found] == [row["hypotheses"] for row in expected]
    assert {row["reason"] for row in found} == {None}
    with pytest.raises(
        ValueError, match=r"a core for each of 3 workers, .* has 2 cores and 0 GPUs"
    ):
        generated(tmp_path, ROWS, "more.jsonl", workers=3, engine="ray")


@pytest.mark.slow
def test_a_model_that_does_not_load_in_actors_is_one_clear_error(
    cluster, tmp_path, monkeypatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match=r"worker 1: ValueError: model .*: cannot be loaded"):
        generated(tmp_path, ROWS, "out.jsonl", workers=2, engine="ray")


def test_a_cluster_that_is_not_there_is_a_clear_error(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="of the extra `ray`")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RuntimeError, match="cluster cannot be reached: ConnectionRefused"):
        generated(tmp_path, ROWS, "out.jsonl", engine="ray")


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"engine ray: needs Ray \(.*\): pip install ray"):
        generated(tmp_path, ROWS, "out.jsonl", engine="ray")


def test_what_actors_need_is_asked_for(tmp_path) -> None:
    source = Source(write_rows(tmp_path / "rows.jsonl", ROWS))
    with pytest.raises(ValueError, match="engine ray: expected a memory budget, for all machines"):
        generate(Recipe("model"), source, tmp_path / "out.jsonl", engine="ray")
    with pytest.raises(ValueError, match=r"engine: expected one of .*, got 'dask'"):
        generate(Recipe("model"), source, tmp_path / "out.jsonl", engine="dask")
