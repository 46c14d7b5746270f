"""Actors of Ray: what one of them suffers ends neither the run nor a row of another."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpora import FILLS_DISK, KILLS, KILLS_ONCE, ROWS, Echo, read_rows, write_rows
from el_attention.corpus import Recipe, Source, generate, ray_actors, run
from el_attention.corpus.store import folder_of

HELPERS = os.pathsep.join(
    [str(Path(__file__).parents[1] / "helpers"), os.environ.get("PYTHONPATH", "")]
)


def generated(folder: Path, rows: Any, name: str, **more: Any) -> list[dict[str, Any]]:
    source = Source(write_rows(folder / "rows.jsonl", rows), id_column="key")
    recipe = Recipe(str(folder), more.pop("options", {}), device="cpu")
    generate(recipe, source, folder / name, memory_budget=9, **more)
    return read_rows(folder / name)


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """Ray on this machine, with two cores, and engines that need no model."""
    ray = pytest.importorskip("ray", reason="of the extra `ray`")
    monkeypatch.setattr(run, "Engine", Echo)
    monkeypatch.setenv("PYTHONPATH", HELPERS)  # of the processes of actors, too
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
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


# A run as a process of its own, which joins the cluster at RAY_ADDRESS.
DRIVER = """
import sys
from pathlib import Path
from corpora import Echo
from el_attention.corpus import Recipe, Source, generate, ray_actors, run
from el_attention.corpus.store import folder_of
run.Engine = Echo
folder = Path(sys.argv[1])
recipe = Recipe(str(folder), {"seconds": 0.1}, device="cpu")
source = Source(folder / "rows.jsonl", id_column="key")
generate(recipe, source, folder / "out.jsonl", workers=2, engine="ray", memory_budget=9)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_at_ten_random_points_continues(cluster, tmp_path) -> None:
    rows = [{**row, "key": f"{row['key']} {n}"} for n in range(40) for row in ROWS]
    expected = generated(tmp_path, rows, "expected.jsonl", options={"seconds": 0.0})
    address = cluster.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": HELPERS}
    journal = folder_of(tmp_path / "out.jsonl") / "000000"

    def written() -> int:
        return journal.stat().st_size if journal.exists() else 0

    generator = random.Random(3)
    for kill in range(10):
        process = subprocess.Popen(command, env=environment)
        # Some before the first batch, most after some more.
        more, start = generator.choice([0, 500, 1500, 3000]), written()
        deadline = time.monotonic() + 600
        while written() < start + more and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        assert process.poll() is None, f"ended before kill {kill}"
        process.kill()
        process.wait()
    assert written() > 0 and not (tmp_path / "out.jsonl").exists()
    subprocess.run(command, env=environment, check=True)
    assert read_rows(tmp_path / "out.jsonl") == expected


@pytest.mark.slow
def test_a_full_disk_of_an_actor_ends_the_run_and_loses_nothing(cluster, tmp_path) -> None:
    rows = [*ROWS, {"key": "odd", "text": FILLS_DISK}]
    with pytest.raises(OSError, match=r"worker \d: OSError: \[Errno 28\] No space left on device"):
        generated(tmp_path, rows, "out.jsonl", workers=2, engine="ray")
    assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / FILLS_DISK).touch()
    found = generated(tmp_path, rows, "out.jsonl", workers=2, engine="ray")
    assert found == generated(tmp_path, rows, "expected.jsonl") and len(found) == len(rows)


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


def test_what_is_no_cluster_is_not_waited_for(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="of the extra `ray`")
    monkeypatch.setattr(ray_actors, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(
            RuntimeError, match="cluster cannot be reached: TimeoutError: timed out"
        ):
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
