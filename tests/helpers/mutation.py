"""Plants a bug in a copy of the kernels and asks the tests whether they notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emulator_build import ROOT

PASSED, FAILED = 0, 1  # exit statuses of pytest


@dataclass(frozen=True)
class Mutation:
    """A bug to plant.

    Attributes:
        what: what is wrong then.
        file: the file to change, below csrc.
        old: text that occurs there exactly once.
        new: what takes its place.
        driver: the program of tests/csrc/emulator that the bug gets into; it must still compile.
        tests: arguments of pytest; at least one of these tests must fail.
    """

    what: str
    file: str
    old: str
    new: str
    driver: str
    tests: tuple[str, ...]


def plant(mutation: Mutation, tree: Path) -> None:
    """Copies the kernels and their drivers to `tree` and plants the bug there.

    Raises:
        ValueError: where the text to replace does not occur exactly once.
    """
    for folder in ("csrc", "tests/csrc/emulator"):
        shutil.copytree(ROOT / folder, tree / folder)
    path = tree / "csrc" / mutation.file
    source = path.read_text()
    if source.count(mutation.old) != 1:
        raise ValueError(
            f"{mutation.what}: expected once in {mutation.file}, "
            f"found {source.count(mutation.old)} times: {mutation.old!r}"
        )
    path.write_text(source.replace(mutation.old, mutation.new))


def is_caught(mutation: Mutation) -> bool:
    """Whether a test fails because of the bug.

    Raises:
        ValueError: as `plant`.
        RuntimeError: the kernels with the bug do not compile, or pytest could not run the tests.
    """
    with tempfile.TemporaryDirectory(prefix="el_attention_") as name:
        plant(mutation, Path(name))
        build = f"import emulator_build; emulator_build.build({mutation.driver!r})"
        compiled = python(["-c", build], Path(name))
        if compiled.returncode != 0:
            raise RuntimeError(f"{mutation.what}: does not compile:\n{compiled.stderr}")
        tested = python(["-m", "pytest", "-x", "-q", *mutation.tests], Path(name))
        if tested.returncode not in (PASSED, FAILED):
            raise RuntimeError(f"{mutation.what}: {tested.stdout}{tested.stderr}")
        return tested.returncode == FAILED


def python(arguments: list[str], tree: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"EL_ATTENTION_EMULATED_TREE": str(tree), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
