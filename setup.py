"""Builds the compiled operators, `el_attention._C`; the metadata is in pyproject.toml.

The CPU operators are always built.  The CUDA operators are built where torch is a CUDA build and
nvcc is found; a GPU is not needed.  Without torch or a C++ compiler, which is how an isolated build
sees the machine, the package is pure Python.  `el_attention/_C.json` says what came of it.

    EL_ATTENTION_CUDA     1: fail where the CUDA operators cannot be built; 0: do not build them
    TORCH_CUDA_ARCH_LIST  GPU architectures, as torch understands them ("8.0 9.0+PTX")
    CUDA_HOME             the CUDA toolkit (default: that of the nvcc on the path)
    MAX_JOBS              parallel compilers
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NAME = "el_attention._C"
SOURCES = ("csrc/*.cpp", "csrc/cpu/*.cpp")
CUDA_SOURCES = ("csrc/cuda/*.cpp", "csrc/cuda/*.cu")
X86_FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
}
# What nvcc is asked for, as far as it knows them.  PTX serves GPUs without machine code of their
# own: that of the last one those newer than all, that of GPU_PTX those in between.
GPU_ARCHITECTURES = ["70", "75", "80", "86", "89", "90", "100", "120"]
GPU_PTX = ["80", "90"]


def say(message: str) -> None:
    """Prints a line that stands out in the output of a build (`pip install -v` shows it)."""
    print(f"setup.py: {message}", file=sys.stderr, flush=True)


def sources(*patterns: str) -> list[str]:
    """Source files in a stable order, relative to this file as setuptools demands."""
    here = Path(__file__).parent
    return [path for pattern in patterns for path in sorted(glob(pattern, root_dir=here))]


def unsupported() -> str | None:
    """Why nothing can be compiled here, or None."""
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler.split()[0]):
        return f"no C++ compiler ({compiler}) when el_attention was installed"
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"torch was not importable when el_attention was installed ({error})"
    return None


def find_toolkit() -> Path | None:
    """The folder of the CUDA toolkit, or None; nvcc itself knows best, it may be a wrapper."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home is None and shutil.which("nvcc"):
        plan = subprocess.run(
            ["nvcc", "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True
        )
        top = re.search(r"^#\$ TOP=(.*)$", plan.stderr, re.MULTILINE)
        home = str(Path(top[1]).resolve()) if top else None
    toolkit = Path(home or "/usr/local/cuda")
    return toolkit if (toolkit / "bin" / "nvcc").exists() else None


def cuda_toolkit() -> tuple[Path | None, str]:
    """The toolkit to build the CUDA operators with, or None and why they are left out.

    Raises:
        SystemExit: if they are asked for and cannot be built, or torch and nvcc do not match.
    """
    import torch

    wanted = os.environ.get("EL_ATTENTION_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"setup.py: EL_ATTENTION_CUDA: expected 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None, "EL_ATTENTION_CUDA=0"
    toolkit, lacking = find_toolkit(), ""
    if torch.version.cuda is None:
        lacking = f"torch {torch.__version__} is built without CUDA"
    elif toolkit is None:
        lacking = "no nvcc (put it on the path, or set CUDA_HOME)"
    else:
        check_toolkit(toolkit, torch.version.cuda)
    if lacking and wanted == "1":
        sys.exit(f"setup.py: EL_ATTENTION_CUDA=1, but {lacking}")
    return (None if lacking else toolkit), lacking


def check_toolkit(toolkit: Path, torch_cuda: str) -> None:
    """Ends the build if nvcc and torch are of different CUDA generations."""
    from packaging.version import Version

    output = subprocess.check_output([toolkit / "bin" / "nvcc", "--version"], text=True)
    release = re.search(r"release ([\d.]+)", output)
    if release is None:
        sys.exit(f"setup.py: no release in the output of {toolkit}/bin/nvcc --version:\n{output}")
    if Version(release[1]).major != Version(torch_cuda).major:
        sys.exit(
            f"setup.py: torch is built for CUDA {torch_cuda}, and {toolkit}/bin/nvcc is CUDA "
            f"{release[1]}: their major versions must be equal. Set CUDA_HOME to a toolkit of "
            f"CUDA {Version(torch_cuda).major}, or EL_ATTENTION_CUDA=0 for the CPU operators only."
        )


def gpu_architectures(toolkit: Path) -> list[str]:
    """Those of GPU_ARCHITECTURES that the toolkit's nvcc knows."""
    known = subprocess.check_output([toolkit / "bin" / "nvcc", "--list-gpu-arch"], text=True)
    return [arch for arch in GPU_ARCHITECTURES if f"compute_{arch}" in known.split()]


def gpu_flags(toolkit: Path) -> list[str]:
    """Options of nvcc for the architectures; none if TORCH_CUDA_ARCH_LIST names them to torch."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return []
    chosen = gpu_architectures(toolkit)
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in chosen]
    ptx = [arch for arch in chosen if arch in GPU_PTX or arch == chosen[-1]]
    return [*flags, *(f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in ptx)]


def compiled() -> dict[str, Any]:
    """Arguments of `setup` that compile the operators."""
    toolkit, lacking = cuda_toolkit()
    if toolkit is not None:
        os.environ["CUDA_HOME"] = str(toolkit)  # torch looks there, once, when it is imported next
    # The ninja of an environment that is not activated.
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    x86 = platform.machine() in ("x86_64", "AMD64")
    instruction_sets = X86_FLAGS if x86 else {"DEFAULT": []}
    # What torch's headers, and GCC 12's own for AVX-512, are full of.
    quiet = ["-Wno-unknown-pragmas", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    # at::parallel_for is a template: without OpenMP it compiles to a plain loop.
    threads = ["-fopenmp"] if torch.backends.openmp.is_available() else []
    flags = {"cxx": ["-O3", "-g0", "-fvisibility=hidden", *threads, *quiet]}
    arguments: dict[str, Any] = {
        "name": NAME,
        "sources": sources(*SOURCES),
        "include_dirs": [str(Path(__file__).parent.resolve() / "csrc")],
        "define_macros": [],
        "extra_compile_args": flags,
        "extra_link_args": threads,
    }
    if toolkit is None:
        extension = CppExtension(**arguments)
    else:
        flags["nvcc"] = ["-O3", "-Xcompiler=-fvisibility=hidden", *gpu_flags(toolkit)]
        arguments["sources"] += sources(*CUDA_SOURCES)
        arguments["define_macros"].append(("EL_ATTENTION_CUDA", None))
        extension = CUDAExtension(**arguments)

    class Build(BuildExtension):
        """Compiles the kernels once for each instruction set, and notes the torch it was for."""

        def build_extension(self, extension: Extension) -> None:
            # Behind all other objects: the linker keeps the first copy of an inline function, which
            # must not be one with instructions that the processor may lack.
            for name, options in instruction_sets.items():
                macros = [("CPU_CAPABILITY", name), (f"CPU_CAPABILITY_{name}", None)]
                extension.extra_objects += self.compiler.compile(
                    sources("csrc/cpu/kernels/*.cpp"),
                    output_dir=str(Path(self.build_temp, name)),
                    include_dirs=extension.include_dirs,
                    macros=[*extension.define_macros, *macros],
                    extra_postargs={"cxx": [*extension.extra_compile_args["cxx"], *options]},
                )
            super().build_extension(extension)

        def run(self) -> None:
            say(f"CPU operators only: {lacking}" if lacking else f"CUDA operators: {toolkit}")
            super().run()
            leave_note(self, torch=str(torch.__version__))

    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


def pure(reason: str) -> dict[str, Any]:
    """Arguments of `setup` that compile nothing and leave the reason for the doctor."""

    class Explain(build_ext):
        def run(self) -> None:
            say(f"no compiled operators: {reason}")
            leave_note(self, unsupported=reason)

    return {"ext_modules": [Extension(NAME, [])], "cmdclass": {"build_ext": Explain}}


def leave_note(command: build_ext, **note: str) -> None:
    """Writes _C.json where the extension lies, or would lie."""
    path = Path(command.get_ext_fullpath(NAME)).with_name("_C.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(note) + "\n")


if __name__ == "__main__":
    reason = unsupported()
    setup(**(compiled() if reason is None else pure(reason)))
