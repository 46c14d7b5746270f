#!/usr/bin/env python3
"""Times `attend` at BART's shapes against pure PyTorch, a large copy and a large float32 product.

The four take turns, round after round, so that a change in the machine's load meets them all; a
rate is compared with the copy's and the product's of the same round. A turn of `attend` goes
through several layers, as a decoder does: more states than any cache holds, so that they come from
memory.

    python scripts/benchmarks/operators.py --batch 4 32
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from el_attention.attention import PLANS
from el_attention.ops import Rows, compiled, reference

MODELS = {"BART-base": (768, 12), "BART-large": (1024, 16)}  # width, heads
LAYERS_BYTES = 2**28  # states of all layers together, more than any cache
COPY_BYTES = 2**28
PRODUCT = 2048  # rows and columns of the large matrices


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    plan: str
    model: str
    batch: int
    beam: int
    source: int
    dtype: torch.dtype

    @property
    def head_width(self) -> int:
        """Width of a key and of a value."""
        width, heads = MODELS[self.model]
        return width if self.plan == "expanded-query" else width // heads

    @property
    def flops(self) -> int:
        """Multiplications and additions of the two products."""
        return 4 * self.batch * self.beam * MODELS[self.model][1] * self.source * self.head_width

    def states(self) -> Rows:
        """Keys and values of one layer."""
        width = MODELS[self.model][0]
        shape = (self.source, self.batch, width // self.head_width, self.head_width)
        keys = torch.randn(shape).to(self.dtype)
        values = keys if self.plan == "expanded-query" else torch.randn(shape).to(self.dtype)
        return Rows(keys, values, torch.arange(self.batch))

    def query(self) -> Tensor:
        """Queries of one step."""
        heads = MODELS[self.model][1]
        query = torch.randn(self.batch, self.beam, heads, self.head_width)
        return (query / self.head_width**0.5).to(self.dtype)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(case: Case, rounds: int) -> str:
    """Times one case and returns its row of the table."""
    layers = [case.states()]
    size = layers[0].keys.nbytes
    size += 0 if layers[0].values is layers[0].keys else layers[0].values.nbytes
    layers += [case.states() for _ in range(LAYERS_BYTES // size)]
    query = case.query()
    source = torch.zeros(COPY_BYTES // 4)
    target = torch.empty_like(source)
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    times: dict[str, list[float]] = {"compiled": [], "pure": [], "copy": [], "product": []}

    def through(attend: Callable[..., object]) -> Callable[[], object]:
        return lambda: [attend(query, [rows], None, need_weights=False) for rows in layers]

    runs: dict[str, tuple[Callable[[], object], int]] = {
        "compiled": (through(compiled.attend), len(layers)),
        "copy": (partial(target.copy_, source), 1),
        "pure": (through(reference.attend), len(layers)),
        "product": (partial(torch.mm, left, right), 1),
    }
    for number in range(-1, rounds):  # the first is not counted
        for name, (run, calls) in runs.items():
            elapsed = seconds(run) / calls
            if number >= 0:
                times[name].append(elapsed)

    def median(values: list[float]) -> float:
        return statistics.median(values)

    def ratio(name: str, work: float, own: float) -> float:
        """Median over the rounds of our rate relative to that of `name`."""
        pairs = zip(times["compiled"], times[name], strict=True)
        return median([(own / mine) / (work / theirs) for mine, theirs in pairs])

    faster = median([b / a for a, b in zip(times["compiled"], times["pure"], strict=True)])
    own = median(times["compiled"])
    of_copy = 100 * ratio("copy", 2 * COPY_BYTES, size)
    of_product = 100 * ratio("product", 2 * PRODUCT**3, case.flops)
    return (
        f"| {case.plan} | {case.model} | {case.batch} | {own * 1e3:.2f} "
        f"| {median(times['pure']) * 1e3:.2f} | {faster:.2f} "
        f"| {size / own / 1e9:.1f} | {of_copy:.0f}% "
        f"| {case.flops / own / 1e9:.0f} | {of_product:.0f}% |"
    )


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8, 32], help="sentences")
    parser.add_argument("--beam", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--source", type=int, default=1024, help="rows; default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    reason = compiled.unsupported(torch.empty(0, dtype=dtype))
    if reason is not None:
        sys.exit(f"nothing to compare: {reason}")

    print(f"{processor()}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()},")
    print(f"torch {torch.__version__}, Python {platform.python_version()}; {options.dtype},")
    print(f"beam {options.beam}, {options.source} rows, {options.rounds} rounds, medians.")
    print(
        "GB/s: bytes of states, each read once. Copy: bytes read and written; product: float32.\n"
    )
    print(
        "| plan | model | batch | compiled, ms | pure PyTorch, ms | times faster "
        "| GB/s | of the copy | GFLOP/s | of the product |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for plan in options.plans:
        for model in options.models:
            for batch in options.batch:
                case = Case(plan, model, batch, options.beam, options.source, dtype)
                print(measure(case, options.rounds), flush=True)


if __name__ == "__main__":
    main()
