"""Builds and runs the drivers in tests/csrc/emulator: programs that run kernels under the emulator.

    program = build("primitives", sanitizer="thread", defines=["EL_EMULATED_ARCH=75"])
    result = run(program, {"query": query}, {"context": (torch.float16, (2, 8))}, rows=5)
    result["context"], result.counters["read_bytes"]

Every object file and program is kept in build/emulator under a hash of all that goes into it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "emulator"
# The tree whose csrc and tests/csrc/emulator are compiled: in mutation tests, a copy with a
# planted bug.
TREE = Path(os.environ.get("EL_ATTENTION_EMULATED_TREE", ROOT))
# Counts executed lines of drivers and kernels: scripts/tools/kernel_coverage.py.
COVERAGE = "EL_ATTENTION_COVERAGE" in os.environ
COMPILER = os.environ.get("CXX", "g++")
KERNEL_ERROR = 3  # driver.h

Sanitizer = Literal["address", "thread"]

FLAGS = ["-std=c++17", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZER_FLAGS: dict[Sanitizer | None, list[str]] = {
    None: [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
EMULATOR_SANITIZER_FLAGS: dict[Sanitizer | None, list[str]] = {
    None: [],
    "address": ["-fsanitize=address"],
    # The emulator is the machine, not the program: csrc/emulator/sanitizers.h.
    "thread": ["-DEL_EMULATOR_TSAN"],
}
RUN_ENVIRONMENT = {
    # A kernel that fails leaves its fibers in the middle, with what they own.
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


class KernelError(RuntimeError):
    """The emulator stopped a kernel; the message says what it did wrong and where."""


class SanitizerError(RuntimeError):
    """A sanitizer ended the driver; the message is its report."""


@dataclass(frozen=True)
class Result:
    """What a driver wrote: its output arrays and what the emulator counted."""

    outputs: dict[str, Tensor]
    counters: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.outputs[name]


def build(
    driver: str,
    sanitizer: Sanitizer | None = None,
    defines: Sequence[str] = (),
    emulator_defines: Sequence[str] = (),
) -> Path:
    """Compiles and links a driver, unless that was done before.

    Args:
        driver: the name of a source file in tests/csrc/emulator, without its ending.
        sanitizer: "address" for AddressSanitizer and UBSan, "thread" for ThreadSanitizer.
        defines: preprocessor definitions for driver and kernels, such as "EL_EMULATED_ARCH=75".
        emulator_defines: preprocessor definitions for the emulator.

    Returns:
        The program.

    Raises:
        RuntimeError: with the compiler's messages.
    """
    return _build(driver, sanitizer, tuple(defines), tuple(emulator_defines))


@functools.cache
def _build(
    driver: str,
    sanitizer: Sanitizer | None,
    defines: tuple[str, ...],
    emulator_defines: tuple[str, ...],
) -> Path:
    own = (*FLAGS, "-O1", *SANITIZER_FLAGS[sanitizer], *(f"-D{define}" for define in defines))
    if COVERAGE and sanitizer is None:
        own += ("-O0", "--coverage")
    emulator = (*FLAGS, "-O2", *EMULATOR_SANITIZER_FLAGS[sanitizer])
    emulator += tuple(f"-D{define}" for define in emulator_defines)
    machine = TREE / "csrc" / "emulator"
    headers = digest(sorted(machine.glob("*.h")))
    driver_source = TREE / "tests" / "csrc" / "emulator" / f"{driver}.cpp"
    objects = [compile_object(driver_source, own, digest(own_includes(driver_source, own)))]
    objects += [compile_object(path, emulator, headers) for path in sorted(machine.glob("*.cpp"))]
    # The folder of an object file names its contents.
    return cached(
        driver, [*own, *(path.parent.name for path in objects)], [*own, *map(str, objects)]
    )


@functools.cache
def compile_object(source: Path, flags: tuple[str, ...], includes: str) -> Path:
    """Compiles one file; `includes` is the digest of what it includes."""
    key = [source.name, *flags, includes, digest([source])]
    return cached(f"{source.stem}.o", key, [*flags, "-c", str(source)])


def own_includes(source: Path, flags: Sequence[str]) -> list[Path]:
    """All files of the repository that a source includes; the system's come with the compiler."""
    rule = execute([COMPILER, *flags, "-MM", str(source)])
    return [Path(name) for name in rule.replace("\\\n", " ").split()[2:]]


def digest(paths: Sequence[Path]) -> str:
    contents = hashlib.sha256()
    for path in paths:
        contents.update(path.read_bytes())
    return contents.hexdigest()


@functools.cache
def compiler_version() -> str:
    return execute([COMPILER, "--version"])


def cached(name: str, key: Sequence[str], arguments: Sequence[str]) -> Path:
    """The file that the compiler makes with these arguments, from the cache if it is there."""
    folder = CACHE / hashlib.sha256("\0".join([compiler_version(), *key]).encode()).hexdigest()[:24]
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # several test processes may want it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = folder / f"unfinished_{name}"
            execute([COMPILER, *arguments, "-o", str(unfinished)])
            unfinished.rename(target)
    return target


def execute(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def run(
    program: Path,
    arrays: Mapping[str, Tensor],
    outputs: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    timeout: float = 300,
    **parameters: object,
) -> Result:
    """Runs a driver.

    Args:
        program: what `build` returned.
        arrays: input arrays by name; the driver sees their elements one after another.
        outputs: dtype and shape of each output array by name; also of inputs that are written.
        timeout: in seconds: an endless loop in a kernel is an error.
        **parameters: the parameters of the driver; `schedule` and `machine` are the emulator's.

    Raises:
        KernelError: the emulator stopped a kernel.
        SanitizerError: a sanitizer found something.
        RuntimeError: the driver failed by itself.
    """
    with tempfile.TemporaryDirectory(prefix="el_attention_") as name:
        folder = Path(name)
        for key, tensor in arrays.items():
            (folder / f"{key}.bin").write_bytes(to_bytes(tensor))
        values = [f"{key}={value}" for key, value in parameters.items()]
        done = subprocess.run(
            [program, folder, *values],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | RUN_ENVIRONMENT,
        )
        if "Sanitizer" in done.stderr or "runtime error:" in done.stderr:
            raise SanitizerError(done.stderr)
        if done.returncode == KERNEL_ERROR:
            raise KernelError(done.stderr.strip())
        if done.returncode != 0:
            raise RuntimeError(f"{program.name} ended with {done.returncode}: {done.stderr}")
        return Result(
            {
                key: from_bytes((folder / f"{key}.bin").read_bytes(), dtype, shape)
                for key, (dtype, shape) in outputs.items()
            },
            json.loads((folder / "counters.json").read_text()),
        )


def to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(tuple(shape))


@functools.cache
def missing(sanitizer: Sanitizer | None) -> str | None:
    """Why programs with this sanitizer cannot be built and run here; None where they can."""
    with tempfile.TemporaryDirectory(prefix="el_attention_") as folder:
        source, program = Path(folder) / "empty.cpp", Path(folder) / "empty"
        source.write_text("int main() {}\n")
        try:
            execute(
                [COMPILER, *FLAGS, *SANITIZER_FLAGS[sanitizer], str(source), "-o", str(program)]
            )
            execute([str(program)])
        except (OSError, RuntimeError) as error:
            return f"{COMPILER} with sanitizer {sanitizer} does not work here: {error}"
    return None


def require(sanitizer: Sanitizer | None = None) -> None:
    """Skips the test where the compiler or the sanitizer is missing; fails it where CI is set."""
    reason = missing(sanitizer)
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI runs every test, but: {reason}")
    pytest.skip(reason)
