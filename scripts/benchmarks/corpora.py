"""Measures what workers and Ray cost a corpus, against loops over the same batches.

The systems take turns, round after round, each with a process for every worker, on cores of its
own: loops that do nothing but generate for batches that they have, `--workers`, and Ray where it
is installed. The rates of the latter are those that `el-attention generate` prints, of rows that
are read, put into batches, generated for and kept, from when the models are loaded until the last
worker has finished; loops have no such end, so batches are small beside the run. Prints Markdown,
and fails if the work per core is less than 0.9 of that of the loops.

    export PYTHONPATH=scripts:examples
    python -m benchmarks.corpora > results.md
    python -m benchmarks.corpora --smoke   # tries the script itself
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import multiprocessing
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.cases import MODELS, Model, shrunk
from benchmarks.operators import processor
from benchmarks.weights import CHECKPOINT, symbols_of, write_checkpoint
from el_attention.corpus import Recipe, Source, generate
from el_attention.corpus.engine import Engine
from el_attention.corpus.processes import pin

EXPECTED = 0.9
LOOPS = "loops"
BUDGET = 2**31  # bytes, for both engines
TOKENS = 32  # of every hypothesis


def write_rows(model: Model, path: Path, rows: int) -> list[str]:
    """Writes texts of random words of a model, of log-normal lengths, and returns them."""
    symbols = symbols_of(model)
    words = symbols.symbols[symbols.nspecial :]
    choose = random.Random(0)
    texts = [
        " ".join(choose.choices(words, k=min(400, 1 + int(choose.lognormvariate(4, 0.7)))))
        for _ in range(rows)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def loops(recipe: Recipe, texts: list[str], workers: int) -> float:
    """Returns the rows/s of all loops together, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for worker in range(workers):
        ours, theirs = context.Pipe()
        processes.append(
            context.Process(target=_loop, args=(theirs, recipe, texts, worker, workers))
        )
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send(None)
    rate = sum(pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    return float(rate)


def _loop(pipe: Connection, recipe: Recipe, texts: list[str], worker: int, workers: int) -> None:
    pin(worker, workers)
    engine = Engine(recipe, worker)
    engine.limit(BUDGET)
    batches, _ = engine.fix(dict(enumerate(texts)), BUDGET)
    mine = batches[worker::workers]
    pipe.send(None)
    pipe.recv()
    start = time.perf_counter()
    for batch in mine:
        engine.generate(batch)
    pipe.send(sum(map(len, mine)) / (time.perf_counter() - start))


def through(recipe: Recipe, rows: Path, workers: int, engine: str) -> float:
    """Returns the rows/s that a run says it has reached."""
    lines = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.jsonl"
        generate(
            recipe,
            Source(rows),
            output,
            workers=workers,
            engine=engine,
            memory_budget=BUDGET,
            progress=lines,
        )
    *_, rate = re.findall(r"([\d.e+]+) rows/s", lines.getvalue().replace(",", ""))
    return float(rate)


def report(rates: Mapping[str, list[float]], workers: int) -> dict[str, float]:
    """Prints a table, and returns the work per core of each system, in that of the loops."""
    print("| | rows/s | rows/s of a core | of the loops | rounds |")
    print("|---|---:|---:|---:|---|")
    shares = {}
    for name, found in rates.items():
        ratios = [rate / loop for rate, loop in zip(found, rates[LOOPS], strict=True)]
        shares[name], rate = statistics.median(ratios), statistics.median(found)
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {rate:.3g} | {rate / workers:.3g} | {shares[name]:.2f} | {each} |")
    return shares


def version_of(package: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=160, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="rows; default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, nothing is judged")
    options = parser.parse_args()
    model = MODELS["bart"]
    if options.smoke:
        model, options.rows, options.rounds = shrunk(model), 64, 1

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(model, folder)
        texts = write_rows(model, folder / "rows.jsonl", options.rows)
        recipe = Recipe(
            str(folder / CHECKPOINT),
            {"beam": 4, "max_len_b": TOKENS, "min_len": TOKENS},
            device="cpu",
            batch_size=options.batch,
        )
        systems: dict[str, Callable[[], float]] = {
            LOOPS: lambda: loops(recipe, texts, options.workers),
            f"--workers {options.workers}": lambda: through(
                recipe, folder / "rows.jsonl", options.workers, "processes"
            ),
        }
        if find_spec("ray") is not None:
            systems["--engine ray"] = lambda: through(
                recipe, folder / "rows.jsonl", options.workers, "ray"
            )
        rates: dict[str, list[float]] = {system: [] for system in systems}
        for _ in range(options.rounds):
            for system, measured in systems.items():
                rates[system].append(measured())
                print(f"{system}: {rates[system][-1]:.3g} rows/s", file=sys.stderr, flush=True)

    packages = {package: version_of(package) for package in ("fairseq-fixed", "fairseq", "ray")}
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python", end=" ")
    print(f"{platform.python_version()}, torch {torch.__version__},", end=" ")
    print(
        ", ".join(f"{package} {found or 'none'}" for package, found in packages.items()), end="; "
    )
    print(f"{datetime.date.today()}.")
    print(
        f"{model.title}, {options.rows} rows, batches of {options.batch}, beam 4, {TOKENS} tokens,"
    )
    print(f"{options.workers} workers, {options.rounds} rounds, medians.\n")
    shares = report(rates, options.workers)
    low = [system for system, share in shares.items() if share < EXPECTED]
    if low and not options.smoke:
        sys.exit(f"less than {EXPECTED} of the work of the loops: {', '.join(low)}")


if __name__ == "__main__":
    main()
