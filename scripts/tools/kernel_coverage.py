#!/usr/bin/env python
"""Measures which lines of the CUDA kernels the tests execute under the emulator.

    scripts/tools/kernel_coverage.py [pytest arguments]

Runs the tests with drivers that count lines and prints the share of executed lines per file of
csrc/cuda. Fails below 95 % in all, and where a line was not executed that csrc/cuda/unexecuted.md
gives no reason for, or that it has although it was executed. Only code that a driver compiles is
seen: not the bodies for nvcc, and not templates that nothing instantiates.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "emulator"
KERNELS = ROOT / "csrc" / "cuda"
REASONS = KERNELS / "unexecuted.md"
TESTS = ["emulator", "cuda_kernels", "cuda_candidates"]
TARGET = 0.95

Executions = Counter[int]  # times by line


def run_tests(arguments: list[str]) -> None:
    """Runs pytest with counting drivers. Raises CalledProcessError where a test fails."""
    for counts in CACHE.rglob("*.gcda"):
        counts.unlink()
    environment = os.environ | {"EL_ATTENTION_COVERAGE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def executed_lines() -> dict[Path, Executions]:
    """Adds up the counts of all drivers, and of all instances of a template."""
    files: dict[Path, Executions] = defaultdict(Counter)
    for counts in CACHE.rglob("*.gcda"):
        command = ["gcov", "--json-format", "--stdout", str(counts)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for path, line, times in lines_of(json.loads(report)):
            files[path][line] += times
    return files


def lines_of(report: dict[str, Any]) -> Iterator[tuple[Path, int, int]]:
    """Yields path, line and executions from gcov's report."""
    folder = Path(report["current_working_directory"])
    for file in report["files"]:
        path = (folder / file["file"]).resolve()
        if path.parent != KERNELS:
            continue
        for line in file["lines"]:
            yield path, line["line_number"], line["count"]


def explained_lines() -> set[tuple[str, str]]:
    """File and text of the lines that the table of reasons has."""
    rows = re.findall(r"^\| (\S+) \| `` (.*) `` \| .+ \|$", REASONS.read_text(), re.MULTILINE)
    return set(rows)


def main() -> int:
    """Prints the report; returns the exit status."""
    if shutil.which("gcov") is None:
        print("kernel_coverage: there is no gcov: no line was counted")
        return 1 if os.environ.get("CI") else 0
    run_tests(
        sys.argv[1:]
        or ["-m", "not slow or rest", *(f"tests/csrc/test_{name}.py" for name in TESTS)]
    )
    counted = executed_lines()
    if not counted:
        print("No line of csrc/cuda was compiled into a driver.")
        return 1
    total: Counter[bool] = Counter()
    missed: set[tuple[str, str]] = set()
    for path, executions in sorted(counted.items()):
        source = path.read_text().splitlines()
        covered = Counter(times > 0 for times in executions.values())
        total += covered
        print(f"{covered[True] / covered.total():7.1%}  {covered.total():5} lines  {path.name}")
        missed |= {
            (path.name, source[line - 1].strip())
            for line, times in executions.items()
            if times == 0
        }
    share = total[True] / total.total()
    print(f"{share:7.1%}  {total.total():5} lines  in all, {total[False]} not executed")
    explained = explained_lines()
    for name, text in sorted(missed - explained):
        print(f"not executed, and without a reason in {REASONS.name}: {name}: {text}")
    for name, text in sorted(explained - missed):
        print(f"executed, or not there any more, but in {REASONS.name}: {name}: {text}")
    return 0 if share > TARGET and missed == explained else 1


if __name__ == "__main__":
    sys.exit(main())
