"""How kernels are launched on CUDA, over a runtime that counts calls: no GPU and no toolkit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emulator_build import cached, digest, own_includes, require

HERE = Path(__file__).parent / "cuda_runtime"
OPT_IN = 232448  # bytes, cuda_runtime.h


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What the driver prints."""
    require()
    source = HERE / "runtime.cpp"
    flags = ["-std=c++17", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{HERE}"]
    flags += ["-Wno-builtin-macro-redefined", "-fsanitize=thread"]
    key = [*flags, digest([source, *own_includes(source, tuple(flags))])]
    program = cached("runtime", key, [*flags, str(source)])
    return subprocess.check_output([program], text=True).splitlines()


def test_shared_memory_is_set_once_for_each_kernel_and_device(lines) -> None:
    expected = {
        f"{kernel} {device} {setting}"
        for kernel in ("first", "second")
        for device in (0, 1)
        for setting in (f"shared {OPT_IN}", "carveout 100")
    }
    found = [line for line in lines if line.split()[0] in ("first", "second")]
    assert len(found) == len(expected) and set(found) == expected


def test_kernels_get_their_arguments(lines) -> None:
    assert f"launched {8 * 6} sum {8 * 3 * (7 + 8)}" in lines


def test_a_failed_launch_leaves_no_error_behind(lines) -> None:
    assert lines[-2:] == ["thrown first: a failure of the fake, left 0"] * 2
