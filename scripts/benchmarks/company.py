"""Measures what busy processes on the same cores do to a step of the decoder.

Systems take turns, alone and beside as many busy processes as there are cores, round after round.
Prints Markdown, and fails if a step of this plugin takes more than 2.6 times the time of one alone
(a fair share of the cores would be 2), or 4 times in the slowest round, or longer than stock
fairseq's in the same company.

    export PYTHONPATH=scripts:examples
    python -m benchmarks.company > results.md
    python -m benchmarks.company --smoke   # tries the script itself
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks.cases import MODELS, Case, shrunk
from benchmarks.operators import processor
from benchmarks.run import timed
from benchmarks.weights import write_checkpoint
from benchmarks.worker import Worker

STOCK, OURS = "fairseq", "el-attention"
MEDIAN, SLOWEST = 2.6, 4.0  # times a step alone
_BUSY = "number = 1\nwhile True: number = number * 3 % 1000003"
_STARTED = 0.3  # seconds until a process is busy

Steps = Mapping[str, Mapping[str, Sequence[float]]]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keeps cores busy."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    time.sleep(_STARTED)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(case: Case, folder: Path, rounds: int, processes: int, threads: int) -> Steps:
    """Returns the seconds of a step in every round, "alone" and in "company", by system."""
    steps: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(name, case, folder, threads)) for name in (STOCK, OURS)
        ]
        for worker in workers:
            worker.wait()
            worker.generate(case.small())
            steps[worker.name] = {"alone": [], "company": []}
        for _ in range(rounds):
            for where, number in (("alone", 0), ("company", processes)):
                with busy(number):
                    for worker in workers:
                        steps[worker.name][where].append(timed(worker, case)[2])
    return steps


def report(batch: int, steps: Steps) -> list[str]:
    """Prints rows of the table, and returns what is not as it should be."""
    medians = {
        name: {where: statistics.median(found) for where, found in of_system.items()}
        for name, of_system in steps.items()
    }
    for name, found in medians.items():
        alone, rounds = found["alone"], steps[name]["company"]
        print(
            f"| {batch} | {name} | {1000 * alone:.1f} | {1000 * found['company']:.1f} "
            f"| {found['company'] / alone:.2f} | {max(rounds) / alone:.2f} |"
        )
    ours, slowest = medians[OURS], max(steps[OURS]["company"])
    wrong = []
    if ours["company"] > MEDIAN * ours["alone"]:
        wrong.append(f"batch {batch}: a median above {MEDIAN} times a step alone")
    if slowest > SLOWEST * ours["alone"]:
        wrong.append(f"batch {batch}: a round above {SLOWEST} times a step alone")
    if ours["company"] > medians[STOCK]["company"]:
        wrong.append(f"batch {batch}: slower than stock fairseq")
    return wrong


def main() -> None:
    """Command line."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=[*MODELS], default="bart", help="default: %(default)s")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32], metavar="SENTENCES")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, nothing is judged")
    options = parser.parse_args()
    model = MODELS[options.model]
    if options.smoke:
        model, options.batch, options.rounds = shrunk(model), [1], 1

    logging.disable(logging.INFO)
    print(
        f"{processor()}, {cores} cores and busy processes, torch {torch.__version__}, "
        f"{datetime.now(timezone.utc).date()}."
    )
    print(
        f"{model.title}, beam 4, sources of 512 tokens, {options.steps} steps, "
        f"{options.rounds} rounds, medians.\n"
    )
    print("| batch | | ms alone | ms in company | times | times in the slowest round |")
    print("|---:|---|---:|---:|---:|---:|")
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(model, Path(name))
        for batch in options.batch:
            case = Case(model, batch, beam=4, source=512, steps=options.steps)
            steps = measure(case, Path(name), options.rounds, cores, cores)
            wrong += report(batch, steps)
            sys.stdout.flush()
    if wrong and not options.smoke:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
