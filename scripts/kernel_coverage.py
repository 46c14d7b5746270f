#!/usr/bin/env python
"""Measures which lines of the CUDA kernels the tests execute under the emulator.

    scripts/kernel_coverage.py [pytest arguments]

Runs the tests with drivers that count lines, prints the share of executed lines per file of
csrc/cuda and every line that was not executed, and fails below 95 % in all. Only code that a
driver compiles is seen: not the bodies for nvcc, and not templates that nothing instantiates.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "emulator"
KERNELS = ROOT / "csrc" / "cuda"
TARGET = 0.95

Executions = Counter[int]  # times by line


def run_tests(arguments: list[str]) -> None:
    """Runs pytest with counting drivers. Raises CalledProcessError where a test fails."""
    for counts in CACHE.rglob("*.gcda"):
        counts.unlink()
    environment = os.environ | {"EL_ATTENTION_COVERAGE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
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


def main() -> int:
    """Prints the report; returns the exit status."""
    run_tests(sys.argv[1:] or ["tests/test_emulator.py", "tests/test_cuda_kernels.py"])
    files = executed_lines()
    if not files:
        print("No line of csrc/cuda was compiled into a driver.")
        return 1
    total: Counter[bool] = Counter()
    missed: list[str] = []
    for path, executions in sorted(files.items()):
        source = path.read_text().splitlines()
        covered = Counter(times > 0 for times in executions.values())
        total += covered
        print(f"{covered[True] / covered.total():7.1%}  {covered.total():5} lines  {path.name}")
        missed += [
            f"{path.relative_to(ROOT)}:{line}: {source[line - 1].strip()}"
            for line, times in sorted(executions.items())
            if times == 0
        ]
    share = total[True] / total.total()
    print(f"{share:7.1%}  {total.total():5} lines  in all")
    print("\n".join(["", f"{len(missed)} lines were not executed:", *missed]))
    return 0 if share >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
