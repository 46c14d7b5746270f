#!/usr/bin/env python
"""Counts what the attention kernels move and compute under the emulator: csrc/cuda/RESULTS.md.

scripts/tools/count_kernels.py            # prints the record
scripts/tools/count_kernels.py --write    # writes it, with today's date
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from emulated import Emulation, plan_of  # noqa: E402
from oracle import Size, expanded, projected, random_call  # noqa: E402

RECORD = ROOT / "csrc" / "cuda" / "RESULTS.md"
ROWS = 1024

HEAD = """\
# What the attention kernels move

Counted on {date} by `scripts/tools/count_kernels.py`. **These are counts of the emulator and
estimates from them; nothing here ran on a GPU.** Registers and spills: `resources.md`, from the
compiler.

One sentence, {rows} rows that every beam sees, beam 4, float16, not split. Factors are relative to
the bytes of the states (keys and values), each counted once: bytes read from global memory, and
wavefronts of shared memory at 128 bytes each. The last column is the time of shared memory (one
wavefront per clock and multiprocessor) over the time to read the states once from HBM; below 1,
HBM is the limit. It is inversely proportional to the clock. Assumed:

{machines}

"""

ANALYSIS = """
## Reading the table

- A tile of 64 queries reads the states once for d = 512, a tile of 16 for every width. For d = 768
  and 1024 the contexts of 64 queries, in float32, would take 192 and 256 KB of the 256 KB of a
  multiprocessor's registers, next to 96 and 128 KB of queries. A tile is 32 queries there, and the
  states are read twice; the two blocks run side by side, so that the second reading comes from L2
  as a rule. Widths above 1024 have tiles of 16 queries.
- Of the wavefronts, relative to the rows that a block reads: 1 to write the rows, 1 for the scores
  and 1 for the contexts to read them (for each row group: d = 512 with 64 queries has two), and
  4 x queries of the block / (128 columns of a slice) for the partial scores of the slices, written
  and read once; the rest are weights and bits.
- By shared memory alone, d = 768 and 1024 with 64 queries would come near HBM's rate on an H100.
  They are not expected to: the instructions of the loop over rows (`machine_code.md`) and their
  latencies, which are not counted here, take longer. The second pass over the rows, and above 1024
  those after it, would go with blocks that share rows through distributed shared memory (clusters,
  sm_90); they are not emulated, and not written.
- No access of these kernels has a bank conflict.
"""


class Gpu(NamedTuple):
    """A GPU's published figures: multiprocessors, clock in GHz, HBM bandwidth in GB/s."""

    multiprocessors: int
    clock: float
    bandwidth: float

    def shared_over_hbm(self, factor: float) -> float:
        """The time of shared memory over that of HBM, for `factor` wavefront bytes per byte."""
        return factor * self.bandwidth / (128 * self.multiprocessors * self.clock)


GPUS = {"a100": Gpu(108, 1.41, 1555), "h100": Gpu(132, 1.705, 3350)}
SIZES: list[tuple[str, Size]] = [
    *(
        ("expanded_query", expanded(1, 4, queries // 4, width, ROWS))
        for width in (512, 768, 1024, 1280, 1600)
        for queries in (64, 16)
    ),
    ("simt", projected(1, 4, 8, 64, ROWS)),
]


def row(machine: str, kernel: str, size: Size) -> str:
    """Runs a kernel and returns its line of the table."""
    call = random_call(size, torch.float16, seen="all")
    result = Emulation(machine).attend(call, kernel, splits=1)
    plan, counters = plan_of(result), result.counters
    states = [x for name, x in counters["arrays"].items() if name.startswith(("keys", "values"))]
    once = sum(x["unique_read_bytes"] for x in states)
    read = sum(x["read_bytes"] for x in states)
    shared = 128 * counters["shared_wavefronts"]
    cells = [
        machine,
        kernel,
        f"{size.width}",
        f"{size.beam * size.heads // size.kv_heads}",
        f"{plan.queries}",
        f"{plan.stages}" if plan.tensor_cores else "",
        f"{plan.shared_bytes:,}",
        f"{read / once:.3f}",
        f"{shared / once:.2f}",
        f"{counters['shared_conflicts']}",
        f"{GPUS[machine].shared_over_hbm(shared / once):.2f}",
    ]
    return f"| {' | '.join(cells)} |\n"


def record() -> str:
    """Returns the whole record."""
    torch.set_num_threads(1)
    machines = "".join(
        f"- {name}: {gpu.multiprocessors} multiprocessors, {gpu.clock} GHz, {gpu.bandwidth} GB/s\n"
        for name, gpu in GPUS.items()
    )
    names = [
        "GPU",
        "kernel",
        "width",
        "queries",
        "of a block",
        "stages",
        "shared memory, bytes",
        "global reads, factor",
        "wavefronts, factor",
        "conflicts",
        "shared / HBM time",
    ]
    table = f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
    for machine in GPUS:
        for kernel, size in SIZES:
            table += row(machine, kernel, size)
    today = datetime.date.today().isoformat()
    head = HEAD.format(date=today, rows=ROWS, machines=machines)
    return head + table + ANALYSIS


def main() -> None:
    """Prints or writes the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    text = record()
    if parser.parse_args().write:
        RECORD.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
