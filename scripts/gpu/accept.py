#!/usr/bin/env python3
"""Runs the acceptance on a GPU: steps with limits of their own, logs, JSON, and one table last.

    scripts/gpu/accept.sh OUT [--parts ABC] [--dry-run] [--wheels FOLDER]

A part takes at most nine minutes.  A step that fails, hangs or finds no time left is noted, and the
next one begins.  `--dry-run` runs what needs no GPU of every step: it imports, collects, and makes
the same calls on the CPU.  Needs nothing beside the standard library itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PART_SECONDS = 540
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider")
# As where neither framework is installed: only part C may use one.
BARE = (
    "import sys; sys.modules['fairseq'] = sys.modules['transformers'] = None; import pytest; "
    "sys.exit(pytest.main(sys.argv[1:]))"
)
SUMMARY = "summary:"  # begins the line of a log that goes into the table


@dataclass(frozen=True)
class Step:
    """A command with a limit.

    Attributes:
        name: of its log and its JSON.
        command: what is run, in the repository.
        rehearsal: what is run in its place in a dry run.
        seconds: the limit.
        environment: variables besides the caller's.
        needs: programs that must be there, or the step is skipped with that reason.
    """

    name: str
    command: Sequence[str]
    rehearsal: Sequence[str]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """What came of a step.

    Attributes:
        part: A, B or C.
        name: of the step.
        verdict: passed, failed, out of time, or skipped.
        seconds: that it took.
        summary: the last line of its log that sums it up, or why it was skipped.
        command: what was run.
    """

    part: str
    name: str
    verdict: str
    seconds: float
    summary: str
    command: Sequence[str] = ()


def steps(out: Path, wheels: Path | None) -> dict[str, list[Step]]:
    """The steps of every part."""
    script = str(ROOT / "scripts" / "gpu" / "calls.py")
    bench = [PYTHON, str(ROOT / "scripts" / "benchmarks" / "gpu.py")]
    tiny = [*bench, "--device", "cpu", "--model", "tiny", "--batch", "2", "--rounds", "2"]
    tiny += ["--dtype", "float32", "--source", "64", "--spread", "1"]
    small = (PYTHON, script, "sizes", "--device", "cpu", "--dtypes", "float16")
    versions = (PYTHON, str(ROOT / "scripts" / "gpu" / "versions.py"))
    build = {"EL_ATTENTION_CUDA": "1", "NVCC_APPEND_FLAGS": "-lineinfo"}
    a = [
        Step("versions", versions, versions, 30),
        Step(
            "build",
            (PYTHON, "scripts/gpu/build.py"),
            (PYTHON, "scripts/gpu/build.py", "--dry-run"),
            240,
            build,
        ),
        Step(
            "doctor",
            (PYTHON, "-m", "el_attention", "doctor", "--gpu"),
            (PYTHON, "-m", "el_attention", "doctor", "--help"),
            60,
        ),
        Step(
            "tests",
            (*PYTEST, "-m", "gpu", "tests/csrc/test_gpu.py"),
            (PYTHON, "-c", BARE, "-q", "--collect-only", "-m", "gpu", "tests/csrc/test_gpu.py"),
            150,
        ),
        Step(
            "soak",
            (PYTHON, script, "soak", "--calls", "2000", "--seconds", "60"),
            (PYTHON, script, "soak", "--device", "cpu", "--calls", "8", "--seconds", "20"),
            90,
        ),
    ]
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        sanitizer = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
        watched = (*sanitizer, PYTHON, script, "sizes")
        a.append(Step(tool, watched, small, 90, needs=sanitizer[:1]))
    b = []
    for model in ("base", "large"):
        for dtype in ("float16", "bfloat16"):
            batches = ("--batch", "1", "8", "32", "128", "320")
            timed = (*bench, "--model", model, "--dtype", dtype, *batches)
            b.append(Step(f"{model}-{dtype}", timed, tiny, 100))
    for beam in ("1", "2", "8", "16"):  # 16 to 256 queries
        timed = (*bench, "--model", "large", "--beam", beam, "--batch", "32", "--rounds", "10")
        b.append(Step(f"large-beam-{beam}", timed, tiny, 40))
    profiler = ("ncu", "--set", "full", "-k", "regex:expanded_query|simt|combine", "-c", "6")
    profiled = (*profiler, "-o", str(out.resolve() / "kernels"), "-f", PYTHON, script, "sizes")
    b.append(Step("ncu", profiled, small, 90, needs=profiler[:1]))
    if wheels is None:
        return {"A": a, "B": b, "C": []}
    site = str(out.resolve() / "site")
    install = (PYTHON, "-m", "pip", "install", "--no-index", "--no-deps", "--target", site)
    generation = "tests/fairseq_plugin/test_gpu_generation.py"
    c = [
        Step(
            "wheels",
            (*install, *map(str, sorted(wheels.glob("*.whl")))),
            (PYTHON, "-m", "pip", "--version"),
            120,
        ),
        Step(
            "hypotheses",
            (*PYTEST, "-m", "gpu", generation),
            (*PYTEST, "--collect-only", "-m", "gpu", generation),
            240,
            {"PYTHONPATH": site},
        ),
    ]
    return {"A": a, "B": b, "C": c}


def rehearse(step: Step, part: str, out: Path, results: Sequence[Result]) -> Result:
    """Runs the rehearsal of a step, unless it was that of another one."""
    for result in results:
        if result.command == step.rehearsal:
            return replace(result, part=part, name=step.name, seconds=0, summary="as before")
    patient = replace(step, seconds=PART_SECONDS, needs=())
    return run(patient, step.rehearsal, part, out, PART_SECONDS)


def run(step: Step, command: Sequence[str], part: str, out: Path, left: float) -> Result:
    """Runs a command for at most the step's limit and what is left of its part.

    Leaves its log and JSON.
    """
    missing = [program for program in step.needs if shutil.which(program) is None]
    limit = min(step.seconds, left)
    started = time.monotonic()
    if missing:
        verdict, summary = "skipped", f"there is no {missing[0]}"
    elif limit < 1:
        verdict, summary = "skipped", "the time of its part is over"
    else:
        log = out / f"{part}-{step.name}.log"
        verdict = execute(command, step.environment, log, limit)
        summary = summary_of(log)
    seconds = round(time.monotonic() - started, 1)
    result = Result(part, step.name, verdict, seconds, summary, command)
    (out / f"{part}-{step.name}.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def execute(command: Sequence[str], environment: dict[str, str], log: Path, limit: float) -> str:
    """Runs a command with its output in a log; ends it, and what it started, at its limit."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    if "PYTHONPATH" in environment:
        variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"{error}\n")
            return "failed"
        try:
            return "passed" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "out of time"


def summary_of(log: Path) -> str:
    """The line that sums a log up, or its last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    marked = [line.removeprefix(SUMMARY).strip() for line in lines if line.startswith(SUMMARY)]
    last = (marked or lines or [""])[-1]
    return last.replace("|", "/")[:160]


def table(results: Sequence[Result], out: Path) -> str:
    """The table of all steps in Markdown, and behind it the tables that they measured."""
    lines = ["| part | step | verdict | s | |", "|---|---|---|---:|---|"]
    for r in results:
        lines.append(f"| {r.part} | {r.name} | {r.verdict} | {r.seconds:.0f} | {r.summary} |")
    for r in results:
        log = out / f"{r.part}-{r.name}.log"
        rows = log.read_text(errors="replace").splitlines() if log.exists() else []
        rows = [row for row in rows if row.startswith("|")]
        if r.part == "B" and rows:
            lines += ["", f"{r.part} {r.name}: {r.verdict}", "", *rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if a step was not passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for logs, JSON and the table")
    parser.add_argument("--parts", default="ABC", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="what needs no GPU of every step")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for part C, by pack.sh")
    options = parser.parse_args(arguments)
    if not set(options.parts) <= set("ABC"):
        parser.error(f"--parts: expected some of A, B and C, got {options.parts!r}")
    if options.wheels is not None and not options.wheels.is_dir():
        parser.error(f"--wheels: expected a folder, got {options.wheels}")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    wheels = options.wheels
    if wheels is None and options.dry_run:
        wheels = out
    parts, results = steps(out, wheels), []
    for part in options.parts:
        end = time.monotonic() + PART_SECONDS
        if not parts[part]:
            results.append(Result(part, "fairseq", "skipped", 0, "no --wheels were given"))
        for step in parts[part]:
            print(f"{part} {step.name} ...", flush=True)
            if options.dry_run:
                results.append(rehearse(step, part, out, results))
            else:
                results.append(run(step, step.command, part, out, end - time.monotonic()))
            print(f"{part} {step.name}: {results[-1].verdict}", flush=True)
    (out / "results.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    text = table(results, out)
    if options.dry_run:
        text = f"A dry run on a CPU: no figure below is of a GPU.\n\n{text}"
    (out / "TABLE.md").write_text(text + "\n")
    print(f"\n{text}")
    return int(any(r.verdict in ("failed", "out of time") for r in results))


if __name__ == "__main__":
    sys.exit(main())
