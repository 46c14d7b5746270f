"""What `setup.py` decides to build, on machines that lack something or have too much of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from el_attention.ops import extension

SETUP = Path(__file__).parents[2] / "setup.py"
NVCC = """#!/bin/sh
case $1 in
  --version) echo 'Cuda compilation tools, release {release}, V{release}.88' ;;
  --list-gpu-arch) printf 'compute_%s\\n' {architectures} ;;
  --dryrun) echo '#$ TOP={home}' >&2 ;;
esac
"""
Toolkit = Callable[[str, str], Path]


@pytest.fixture
def setup() -> ModuleType:
    """The build script as a module."""
    spec = importlib.util.spec_from_file_location("build_script", SETUP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toolkit(tmp_path: Path) -> Toolkit:
    """Makes a CUDA toolkit of a given release that knows given architectures."""

    def make(release: str, architectures: str = "") -> Path:
        home = tmp_path / f"cuda-{release}"
        (home / "bin").mkdir(parents=True)
        nvcc = home / "bin" / "nvcc"
        nvcc.write_text(NVCC.format(release=release, architectures=architectures, home=home))
        nvcc.chmod(0o755)
        return home

    return make


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EL_ATTENTION_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the build script's build_ext into a folder."""
    arguments = ["build_ext", "--build-lib", str(folder), "--build-temp", str(folder)]
    return subprocess.run(
        [sys.executable, SETUP.name, *arguments],
        cwd=SETUP.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("lacking", ["compiler", "torch"])
def test_without_a_compiler_or_torch_the_package_is_pure_python_and_says_why(
    tmp_path, lacking
) -> None:
    if lacking == "compiler":
        expected = "no C++ compiler (no-such-compiler) when el_attention was installed"
        result = build(tmp_path, CXX="no-such-compiler")
    else:
        expected = "torch was not importable when el_attention was installed (isolated)"
        (tmp_path / "torch.py").write_text("raise ImportError('isolated')")
        result = build(tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert f"setup.py: no compiled operators: {expected}" in result.stderr
    note = tmp_path / "el_attention" / "_C.json"
    assert json.loads(note.read_text()) == {"unsupported": expected}
    assert extension.load(note) == f"not built: {expected}"


def test_an_extension_for_another_torch_is_not_loaded(tmp_path) -> None:
    note = tmp_path / "_C.json"
    assert "there is no _C.json" in (extension.load(note) or "")
    note.write_text('{"torch": "2.6.0+cu124"}')
    expected = f"built for torch 2.6.0+cu124, running torch {torch.__version__}"
    assert extension.load(note) == expected


def test_cuda_is_built_where_torch_and_nvcc_have_it(setup, toolkit, monkeypatch) -> None:
    home = toolkit("13.0")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert setup.cuda_toolkit() == (home, "")
    monkeypatch.setenv("EL_ATTENTION_CUDA", "1")
    assert setup.cuda_toolkit() == (home, "")
    monkeypatch.setenv("EL_ATTENTION_CUDA", "0")
    assert setup.cuda_toolkit() == (None, "EL_ATTENTION_CUDA=0")


@pytest.mark.parametrize(
    ("cuda", "has_nvcc", "text"),
    [
        (None, True, f"torch {torch.__version__} is built without CUDA"),
        ("13.0", False, "no nvcc (put it on the path, or set CUDA_HOME)"),
    ],
)
def test_cuda_is_left_out_with_a_reason_and_refused_where_it_is_demanded(
    setup, toolkit, monkeypatch, tmp_path, cuda, has_nvcc, text
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit("13.0") if has_nvcc else tmp_path))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert setup.cuda_toolkit() == (None, text)
    monkeypatch.setenv("EL_ATTENTION_CUDA", "1")
    with pytest.raises(SystemExit, match="EL_ATTENTION_CUDA=1, but") as stopped:
        setup.cuda_toolkit()
    assert text in str(stopped.value)


def test_another_value_of_the_switch_is_refused(setup, monkeypatch) -> None:
    monkeypatch.setenv("EL_ATTENTION_CUDA", "yes")
    with pytest.raises(SystemExit, match="expected 0 or 1, got 'yes'"):
        setup.cuda_toolkit()


def test_torch_and_nvcc_of_different_generations_are_refused(setup, toolkit, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit("12.10")))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(SystemExit, match=r"CUDA 13\.0, and .* is CUDA 12\.10") as stopped:
        setup.cuda_toolkit()
    assert "EL_ATTENTION_CUDA=0" in str(stopped.value)


def test_the_toolkit_of_an_nvcc_that_is_a_wrapper_is_found(setup, toolkit, monkeypatch) -> None:
    home = toolkit("13.0")
    monkeypatch.setenv("PATH", str(home / "bin"), prepend=os.pathsep)
    assert setup.find_toolkit() == home


def test_every_source_has_an_object_file_of_its_own(setup) -> None:
    """ninja refuses two rules for one file, but only where there are nvcc and a CUDA torch."""
    sources = setup.sources(*setup.SOURCES, *setup.CUDA_SOURCES)
    assert {Path(source).suffix for source in sources} == {".cpp", ".cu"}
    objects = Counter(Path(source).with_suffix(".o") for source in sources)
    assert [str(path) for path, count in objects.items() if count > 1] == []


@pytest.mark.parametrize(
    ("known", "chosen", "ptx"),
    [
        # CUDA 13.0, 12.4, and one that knows nothing newer than 7.5.
        ("75 80 86 87 88 89 90 100 103 110 120 121", "75 80 86 89 90 100 120", "80 90 120"),
        ("50 60 70 75 80 86 87 89 90", "70 75 80 86 89 90", "80 90"),
        ("50 60 70 75", "70 75", "75"),
    ],
)
def test_architectures_are_those_nvcc_knows(
    setup, toolkit, monkeypatch, known, chosen, ptx
) -> None:
    home = toolkit("13.0", known)
    assert setup.gpu_flags(home) == [
        *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in chosen.split()),
        *(f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in ptx.split()),
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    assert setup.gpu_flags(home) == []
