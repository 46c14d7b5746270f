#!/usr/bin/env python3
"""Assembles every CUDA kernel for every architecture and tabulates what each takes.

    python scripts/tools/check_ptx.py            # writes csrc/cuda/resources.md
    python scripts/tools/check_ptx.py --check    # compares with it

Fails where a kernel spills registers, cannot be assembled or, with --check, takes something else
than the table has.  Where there is no nvcc it says so and does nothing, or fails if CI is set.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
TABLE = ROOT / "csrc" / "cuda" / "resources.md"
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>sm_\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:[^\n]*, (?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)
HEAD = """\
# What the CUDA kernels take

Written by `scripts/tools/check_ptx.py` with nvcc {release}; CI compares. Registers of a
thread, for each architecture; after a slash, bytes of local memory that a thread keeps. No kernel
spills registers. Shared memory is dynamic, chosen at launch (RESULTS.md), but for bytes named with
the kernel.

"""


class Use(NamedTuple):
    """What a kernel takes on one architecture.

    Attributes:
        registers: the registers of a thread.
        stack: bytes of local memory of a thread.
        shared: bytes of static shared memory of a block.
        spilled: bytes of registers that a thread stores and loads.
    """

    registers: int
    stack: int
    shared: int
    spilled: int


Uses = dict[tuple[str, str], Use]


def build_script() -> ModuleType:
    """setup.py, which knows the toolkit and the architectures."""
    spec = importlib.util.spec_from_file_location("build_script", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assemble(nvcc: Path, source: Path, arch: str) -> str:
    """Compiles one source for one architecture.

    Returns:
        What ptxas reports.

    Raises:
        RuntimeError: if it cannot be compiled.
    """
    options = ["-cubin", f"-arch=sm_{arch}", "-std=c++17", "-O3", "--resource-usage"]
    command = [str(nvcc), *options, "-I", str(ROOT / "csrc"), "-o", os.devnull, str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{source.name} cannot be compiled for sm_{arch}:\n{result.stderr}")
    return result.stdout + result.stderr


def readable(names: list[str]) -> list[str]:
    """Demangles names of kernels and leaves out their parameters and the project's namespaces."""
    text = subprocess.check_output(["c++filt"], input="\n".join(names), text=True)
    text = re.sub(r"el_attention::cuda::|\(anonymous namespace\)::|^void ", "", text, flags=re.M)
    return [re.sub(r"\([^()]*\)$", "", name) for name in text.splitlines()]


def parse(report: str) -> Uses:
    """Reads what ptxas reports: what each kernel takes on each architecture."""
    entries = list(ENTRY.finditer(report))
    names = readable([entry["name"] for entry in entries]) if entries else []
    return {
        (name, entry["arch"]): Use(
            int(entry["registers"]),
            int(entry["stack"]),
            int(entry["shared"] or 0),
            int(entry["stores"]) + int(entry["loads"]),
        )
        for name, entry in zip(names, entries, strict=True)
    }


def render(uses: Uses, release: str) -> str:
    """The table, in Markdown."""
    kernels = sorted({kernel for kernel, _ in uses})
    architectures = sorted({arch for _, arch in uses}, key=lambda arch: int(arch[3:]))
    lines = [f"| kernel | {' | '.join(architectures)} |", f"|---{'|---:' * len(architectures)}|"]
    for kernel in kernels:
        taken = [uses.get((kernel, arch)) for arch in architectures]
        shared = max(use.shared for use in taken if use is not None)
        title = f"`{kernel}`" + (f" ({shared} bytes)" if shared else "")
        cells = [
            "" if use is None else f"{use.registers}" + (f"/{use.stack}" if use.stack else "")
            for use in taken
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return HEAD.format(release=release) + "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the table, do not write")
    check = parser.parse_args().check

    script = build_script()
    toolkit = script.find_toolkit()
    if toolkit is None:
        message = "check_ptx: there is no nvcc: no kernel was assembled"
        if os.environ.get("CI"):
            sys.exit(f"{message}, and CI assembles them")
        print(message)
        return
    nvcc = toolkit / "bin" / "nvcc"
    release = re.search(r"V([\d.]+)", subprocess.check_output([nvcc, "--version"], text=True))
    assert release is not None
    architectures = script.gpu_architectures(toolkit)
    jobs = [(nvcc, source, arch) for source in SOURCES for arch in architectures]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        try:
            uses = parse("".join(pool.map(assemble, *zip(*jobs, strict=True))))
        except RuntimeError as error:
            sys.exit(f"check_ptx: {error}")
    if not uses:
        sys.exit("check_ptx: ptxas reported no kernel")

    spills = [
        f"check_ptx: {kernel} spills {use.spilled} bytes on {arch}"
        for (kernel, arch), use in uses.items()
        if use.spilled
    ]
    if spills:
        sys.exit("\n".join(spills))
    table = render(uses, release[1])
    if not check:
        TABLE.write_text(table)
    elif f"nvcc {release[1]};" not in TABLE.read_text():
        print(f"check_ptx: {TABLE.name} is of another nvcc than {release[1]}: only spills count")
    elif table != TABLE.read_text():
        old = set(TABLE.read_text().splitlines())
        new = [line for line in table.splitlines() if line not in old]
        sys.exit(
            f"check_ptx: not what {TABLE.name} has (python scripts/tools/check_ptx.py writes it):\n"
            + "\n".join(new)
        )
    print(f"check_ptx: nvcc {release[1]} assembled {len(uses)} kernels x architectures, no spills")


if __name__ == "__main__":
    main()
