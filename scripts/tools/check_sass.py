#!/usr/bin/env python3
"""Disassembles the CUDA kernels and tabulates what their machine code must and must not have.

    python scripts/tools/check_sass.py            # writes csrc/cuda/machine_code.md
    python scripts/tools/check_sass.py --check    # compares with it

Fails where a kernel reads or writes shared memory through generic addresses, or local memory, where
the loop over rows has a division, or, with --check, where the counts of that loop are others than
the table's.  nvdisasm is that of the toolkit or of triton's wheel; without it, or without nvcc, it
says so and does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.check_ptx import ROOT, SOURCES, build_script, readable

TABLE = ROOT / "csrc" / "cuda" / "machine_code.md"
ARCHITECTURES = ("90",)
HEAD = """\
# The machine code of the CUDA kernels

Written by `scripts/tools/check_sass.py` with nvcc {release}; CI compares where it finds nvdisasm.
No kernel has a generic access of shared memory, or one of local memory. Below: the loop over rows
of the kernels with tensor cores, its instructions, those of matrices, and its barriers; it has no
division. These are counts, no times.

"""
FUNCTION = re.compile(r"\.text\.(\S+):")
LABEL = re.compile(r"(\.L_x_\d+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*)")
GENERIC = re.compile(r"(LD|ST)(\.|$)")
LOCAL = re.compile(r"(LDL|STL)(\.|$)")
MATRIX = re.compile(r"HMMA")
DIVISION = re.compile(r"MUFU\.RCP|I2F|CALL")
BARRIER = re.compile(r"BAR\.")


@dataclass(frozen=True)
class Code:
    """The machine code of a kernel.

    Attributes:
        opcodes: one for each instruction.
        loops: the first and the last instruction of every loop.
    """

    opcodes: Sequence[str]
    loops: Sequence[tuple[int, int]]

    def row_loop(self) -> Sequence[str] | None:
        """The opcodes of the smallest loop with all matrix instructions that a loop has, if any."""
        bodies = [self.opcodes[first : last + 1] for first, last in self.loops]
        most = max((count(MATRIX, body) for body in bodies), default=0)
        if most == 0:
            return None
        return min((body for body in bodies if count(MATRIX, body) == most), key=len)


def count(pattern: re.Pattern[str], opcodes: Sequence[str]) -> int:
    """How many of the opcodes begin with a pattern."""
    return sum(pattern.match(opcode) is not None for opcode in opcodes)


def parse(text: str) -> dict[str, Code]:
    """Reads what nvdisasm prints: the code of every kernel, by its mangled name."""
    kernels: dict[str, Code] = {}
    for section in re.split(r"^(?=\.text\.)", text, flags=re.MULTILINE)[1:]:
        name = FUNCTION.match(section)
        if name is None:
            continue
        opcodes: list[str] = []
        labels: dict[str, int] = {}
        loops = []
        for line in section.splitlines():
            if label := LABEL.match(line):
                labels[label[1]] = len(opcodes)
            elif instruction := INSTRUCTION.search(line):
                target = re.search(r"\.L_x_\d+", instruction[2])
                if instruction[1].startswith("BRA") and target and target[0] in labels:
                    loops.append((labels[target[0]], len(opcodes)))
                opcodes.append(instruction[1])
        kernels[name[1]] = Code(opcodes, loops)
    return kernels


def faults_of(title: str, code: Code) -> list[str]:
    """What the code of a kernel must not have, and has."""
    faults = []
    if generic := count(GENERIC, code.opcodes):
        faults.append(f"{title}: {generic} generic accesses of memory")
    if local := count(LOCAL, code.opcodes):
        faults.append(f"{title}: {local} accesses of local memory")
    if divisions := count(DIVISION, code.row_loop() or ()):
        faults.append(f"{title}: {divisions} parts of divisions in the loop over rows")
    return faults


def find_nvdisasm(toolkit: Path) -> str | None:
    """The program, of the toolkit, the path, or triton's wheel."""
    places = [str(toolkit / "bin" / "nvdisasm"), "nvdisasm"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        places.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"))
    return next((place for place in places if shutil.which(place)), None)


def disassemble(nvcc: Path, nvdisasm: str, source: Path, arch: str) -> dict[str, Code]:
    """Compiles a source for an architecture and reads its machine code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "code.cubin"
        options = ["-cubin", f"-arch=sm_{arch}", "-std=c++17", "-O3", "-I", str(ROOT / "csrc")]
        subprocess.run([str(nvcc), *options, "-o", str(cubin), str(source)], check=True)
        return parse(subprocess.check_output([nvdisasm, "-c", str(cubin)], text=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the table, do not write")
    check = parser.parse_args().check
    toolkit = build_script().find_toolkit()
    nvdisasm = find_nvdisasm(toolkit) if toolkit is not None else None
    if toolkit is None or nvdisasm is None:
        print(f"check_sass: there is no {'nvcc' if toolkit is None else 'nvdisasm'}: skipped")
        return
    nvcc = toolkit / "bin" / "nvcc"
    release = re.search(r"V([\d.]+)", subprocess.check_output([nvcc, "--version"], text=True))
    assert release is not None
    faults, rows, kernels = [], [], 0
    for arch in ARCHITECTURES:
        for source in SOURCES:
            codes = disassemble(nvcc, nvdisasm, source, arch)
            titles = readable(list(codes)) if codes else []
            for title, code in sorted(zip(titles, codes.values(), strict=True), key=lambda x: x[0]):
                kernels += 1
                faults += faults_of(f"{title}, sm_{arch}", code)
                if (loop := code.row_loop()) is not None:
                    counts = (len(loop), count(MATRIX, loop), count(BARRIER, loop))
                    rows.append(f"| `{title}` | sm_{arch} | {' | '.join(map(str, counts))} |")
    text = HEAD.format(release=release[1])
    text += "| kernel | | instructions | of matrices | barriers |\n|---|---|---:|---:|---:|\n"
    text += "\n".join(rows) + "\n"
    if faults:
        sys.exit("check_sass: " + "\n".join(faults))
    if not check:
        TABLE.write_text(text)
    elif TABLE.read_text() != text:
        sys.exit(f"check_sass: {TABLE.relative_to(ROOT)} is not what the kernels are:\n{text}")
    print(f"check_sass: nvcc {release[1]}, {kernels} kernels x architectures")


if __name__ == "__main__":
    main()
