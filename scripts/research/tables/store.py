"""Results on disk, one JSON file per cell, and the loop that makes those that are missing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from research.tables.cells import Cell, Job

FAILED = "failed"

Result = dict[str, Any]


def path_of(folder: Path, cell: Cell) -> Path:
    """The file of a cell's result."""
    return folder / cell.table / f"{cell.name}.json"


def read(folder: Path, cell: Cell) -> Result | None:
    """The stored result of a cell, or None.

    Raises:
        ValueError: if the file is not JSON.
    """
    path = path_of(folder, cell)
    if not path.exists():
        return None
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON: {error}; delete it to measure again") from error
    return result


def write(folder: Path, cell: Cell, result: Result) -> None:
    """Stores a result: all of it or, when interrupted, nothing."""
    path = path_of(folder, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result) + "\n", encoding="utf-8")
    unfinished.replace(path)


def is_finished(result: Result | None, job: Job) -> bool:
    """Whether a stored result is of this very job, and no failure."""
    if result is None or result["status"] == FAILED:
        return False
    return bool(result["settings"] == json.loads(json.dumps(job.settings())))


def run(
    folder: Path,
    jobs: Iterable[Job],
    work: Callable[[Job], Result] | None = None,
    again: bool = False,
    out: Callable[[str], None] = print,
) -> list[Cell]:
    """Measures the jobs that have no result yet, and stores each result at once.

    Args:
        folder: the folder of results.
        jobs: to run.
        work: measures a job; by default in a process of its own, so that whatever befalls it
            befalls no other.
        again: measure finished jobs as well.
        out: takes a line for each job.

    Returns:
        The cells that failed.
    """
    work = work or in_own_process
    jobs = list(jobs)
    failed = []
    for number, job in enumerate(jobs, 1):
        cell = job.cell
        title = f"[{number}/{len(jobs)}] {cell.table}: {cell.name}"
        if not again and is_finished(read(folder, cell), job):
            out(f"{title}: kept")
            continue
        start = time.monotonic()
        result = work(job)
        write(folder, cell, result)
        text = describe(result)
        if result["status"] == FAILED:
            failed.append(cell)
            text += f"\n{result['message']}"
        out(f"{title}: {text} ({time.monotonic() - start:.1f} s)")
    return failed


def describe(result: Result) -> str:
    """A result in a few words."""
    if "batches" in result:
        return f"batches up to {result['batches'][-1]['batch']}"
    if "samples_per_second" in result:
        return f"{result['samples_per_second']:.1f} samples/s, batch {result['batch']}"
    if "input_state_bytes" in result:
        return f"{result['input_state_bytes']:,} bytes of input states"
    return str(result["status"])


def in_own_process(job: Job) -> Result:
    """Measures a job in a process of its own; a death of that process is a failed result."""
    # A process forked from one that has used CUDA cannot use it: on a GPU each starts afresh. Else
    # they are forked from one that has imported everything and computed nothing.
    fresh = job.profile.device != "cpu"
    context = multiprocessing.get_context("spawn" if fresh else "forkserver")
    if not fresh:
        # torch imports sympy at the first padded batch.
        context.set_forkserver_preload(["research.tables.measure", "sympy"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(job, sender))  # type: ignore[attr-defined]
    process.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    except EOFError:
        process.join()
        result = _failure(job, f"its process ended with {_ending(process.exitcode)}")
    finally:
        process.join()
    return result


def _send_result(job: Job, sender: Connection) -> None:
    from research.tables.measure import measure

    try:
        result = measure(job)
    except Exception:
        result = _failure(job, traceback.format_exc())
    sender.send(result)
    sender.close()
    # Interpreters that end while memory is short may hang or crash; all is said.
    sys.stdout.flush()
    os._exit(0)


def _failure(job: Job, message: str) -> Result:
    return {"settings": job.settings(), "status": FAILED, "message": message}


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
