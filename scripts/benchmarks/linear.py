#!/usr/bin/env python3
"""Times the operator of linear layers at BART's shapes against torch's own products.

Inputs are of float32, weights of float32 or of the 16 bits that hold them exactly.

They take turns, round after round, so that a change in the machine's load meets them all. A turn
goes through the weights of several layers, as a decoder does: more than most caches hold.

    PYTHONPATH=examples python scripts/benchmarks/linear.py --rows 4 32 128
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.measurements import machine
from el_attention.ops import compiled

SHAPES = [(768, 768), (768, 3072), (3072, 768), (768, 50265)]  # inputs, outputs
LAYERS_BYTES = 2**28

# By the dtype of the weights, which float32 inputs are multiplied by.
Product = tuple[torch.dtype, Callable[[Tensor, Tensor], Tensor]]
PRODUCTS: dict[str, Product] = {
    "here": (torch.float32, lambda x, weight: compiled.linear(x, weight, None)),
    "float16 weights": (torch.float16, lambda x, weight: compiled.linear(x, weight, None)),
    "bfloat16 weights": (torch.bfloat16, lambda x, weight: compiled.linear(x, weight, None)),
    "`F.linear`": (torch.float32, lambda x, weight: F.linear(x, weight)),
    "`W @ x.t()`": (torch.float32, lambda x, weight: weight @ x.t()),
}


def seconds(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: list[Tensor]) -> float:
    """Wall time of one call, the mean over all weights."""
    start = time.perf_counter()
    for weight in weights:
        product(x, weight)
    return (time.perf_counter() - start) / len(weights)


def measure(rows: int, weights: dict[torch.dtype, list[Tensor]], rounds: int) -> str:
    """Times all products for one number of rows; returns a row of the table."""
    outputs, inputs = weights[torch.float32][0].shape
    x = torch.randn(rows, inputs)
    times: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    for number in range(-1, rounds):  # the first is not counted
        for name, (dtype, product) in PRODUCTS.items():
            elapsed = seconds(product, x, weights[dtype])
            if number >= 0:
                times[name].append(elapsed)
    rates = [2e-9 * rows * inputs * outputs / statistics.median(each) for each in times.values()]
    pairs = zip(times["here"], times["`F.linear`"], strict=True)
    ratio = statistics.median([here / torchs for here, torchs in pairs])
    cells = [f"{rows}, {inputs}, {outputs}", *(f"{rate:.0f}" for rate in rates), f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8, 32, 128, 256])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if not compiled.runs_linear(torch.empty(1, 1), torch.empty(1, 1)):
        sys.exit("nothing to compare: there is no compiled operator for this machine")

    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{options.threads} threads, float32, {options.rounds} rounds, medians, GFLOP/s.\n")
    header = ["rows, inputs, outputs", *PRODUCTS, "time of `F.linear`'s"]
    print(f"| {' | '.join(header)} |")
    print("|---|" + "---:|" * (len(header) - 1))
    for inputs, outputs in SHAPES:
        count = max(2, LAYERS_BYTES // (4 * inputs * outputs))
        made = [torch.randn(outputs, inputs) for _ in range(count)]
        weights = {dtype: [w.to(dtype) for w in made] for dtype, _ in PRODUCTS.values()}
        for rows in options.rows:
            print(measure(rows, weights, options.rounds), flush=True)


if __name__ == "__main__":
    main()
