"""scripts/tools/check_ptx.py, with a compiler that reports what the test wants."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "tools" / "check_ptx.py"
NVCC = """#!/bin/sh
case $1 in
  --version) echo 'Cuda compilation tools, release 13.0, V{release}' ;;
  --list-gpu-arch) printf 'compute_80\\ncompute_90\\n' ;;
  *) cat "{home}/report$2" >&2; exit {status} ;;
esac
"""
REPORT = """\
ptxas info    : 8 bytes gmem
ptxas info    : Compiling entry function '_ZN12el_attention4cuda5scaleIfLi4EEEvPKfPfi' for '{arch}'
ptxas info    : Function properties for _ZN12el_attention4cuda5scaleIfLi4EEEvPKfPfi
    {stack} bytes stack frame, {spilled} bytes spill stores, 0 bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 8 bytes cmem[0]{shared}
ptxas info    : Compile time = 4.123 ms
"""
Compiler = Callable[..., None]


@pytest.fixture
def check_ptx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with one source and a table of its own."""
    spec = importlib.util.spec_from_file_location("check_ptx", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SOURCES", [tmp_path / "kernels.cu"])
    monkeypatch.setattr(module, "TABLE", tmp_path / "resources.md")
    monkeypatch.delenv("CI", raising=False)
    return module


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    """Makes a compiler that reports these numbers for sm_80, and 40 registers for sm_90."""

    def make(registers=30, stack=0, spilled=0, shared=0, release="13.0.88", status=0) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(NVCC.format(home=tmp_path, release=release, status=status))
        nvcc.chmod(0o755)
        smem = f", {shared} bytes smem" if shared else ""
        mine = REPORT.format(
            arch="sm_80", registers=registers, stack=stack, spilled=spilled, shared=smem
        )
        other = REPORT.format(arch="sm_90", registers=40, stack=0, spilled=0, shared=smem)
        (tmp_path / "report-arch=sm_80").write_text(mine)
        (tmp_path / "report-arch=sm_90").write_text(other)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))

    return make


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["check_ptx.py", *arguments])
    script.main()


def test_the_table_has_a_row_for_each_kernel(check_ptx, compiler, monkeypatch) -> None:
    compiler(stack=16, shared=400)
    run(check_ptx, monkeypatch)
    assert check_ptx.TABLE.read_text().splitlines()[-3:] == [
        "| kernel | sm_80 | sm_90 |",
        "|---|---:|---:|",
        "| `scale<float, 4>` (400 bytes) | 30/16 | 40 |",
    ]
    run(check_ptx, monkeypatch, "--check")


def test_a_kernel_that_takes_something_else_fails_the_check(
    check_ptx, compiler, monkeypatch
) -> None:
    compiler()
    run(check_ptx, monkeypatch)
    compiler(registers=31)
    with pytest.raises(SystemExit, match=r"\| `scale<float, 4>` \| 31 \| 40 \|"):
        run(check_ptx, monkeypatch, "--check")
    compiler(registers=31, release="13.1.2")  # another compiler may choose otherwise
    run(check_ptx, monkeypatch, "--check")


@pytest.mark.parametrize("release", ["13.0.88", "13.1.2"])
def test_spills_fail_with_any_compiler(check_ptx, compiler, monkeypatch, release) -> None:
    compiler()
    run(check_ptx, monkeypatch)
    compiler(spilled=8, release=release)
    with pytest.raises(SystemExit, match="scale<float, 4> spills 8 bytes on sm_80"):
        run(check_ptx, monkeypatch, "--check")


def test_a_source_that_does_not_compile_fails(check_ptx, compiler, monkeypatch) -> None:
    compiler(status=1)
    with pytest.raises(SystemExit, match=r"kernels\.cu cannot be compiled for sm_80"):
        run(check_ptx, monkeypatch)


def test_without_nvcc_nothing_is_done_but_not_in_ci(
    check_ptx, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    run(check_ptx, monkeypatch, "--check")
    assert "there is no nvcc" in capsys.readouterr().out
    monkeypatch.setenv("CI", "1")
    with pytest.raises(SystemExit, match="there is no nvcc"):
        run(check_ptx, monkeypatch, "--check")
