"""What no program can beat: the time to read the weights, or to multiply by them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.cases import Case
from el_attention.cost import Architecture

ITEM = 4  # bytes of float32
TRIALS = 7
READ = 2**28  # bytes, more than any cache
PRODUCT = 2048  # rows and columns


@dataclass(frozen=True)
class Rates:
    """What the machine does at best, in float32, with torch's threads.

    Attributes:
        read: bytes/s from memory.
        product: FLOP/s of a large matrix product.
    """

    read: float
    product: float

    def best(self, other: Rates) -> Rates:
        """The higher of each: what disturbs a measurement makes it lower."""
        return Rates(max(self.read, other.read), max(self.product, other.product))

    def seconds(self, flops: float, read: float) -> float:
        """The longer of the two: they overlap."""
        return max(flops / self.product, read / self.read)


def measure() -> Rates:
    """Measures the rates, in a second."""
    block = torch.ones(READ // ITEM)
    left, right = torch.rand(2, PRODUCT, PRODUCT)
    return Rates(
        read=READ / _best(lambda: block.sum()),
        product=2 * PRODUCT**3 / _best(lambda: left @ right),
    )


def of(case: Case, rates: Rates) -> dict[str, float]:
    """The floors of a case, as JSON: seconds of "first" and "step"."""
    return {"first": first(case, rates), "step": step(case, rates)}


def step(case: Case, rates: Rates) -> float:
    """Seconds of a decoder step: its products with weights alone, each weight read once."""
    sizes = case.model.sizes
    queries, _ = sizes.cross_weights
    weights = sizes.decoder.layers * (sizes.decoder.layer_weights + queries)
    weights += sizes.vocabulary * sizes.decoder.width
    return rates.seconds(2 * case.batch * case.beam * weights, ITEM * weights)


def first(case: Case, rates: Rates) -> float:
    """Seconds of encoder or prompt, each sentence once, and of the first step."""
    sizes: Architecture = case.model.sizes
    stack = sizes.encoder or sizes.decoder
    tokens = case.batch * case.source
    _, states = sizes.cross_weights
    weights = stack.layers * stack.layer_weights + sizes.decoder.layers * states
    # Scores and contexts; a prompt's tokens see those before them, half of all.
    seen = case.source * (1.0 if sizes.encoder else 0.5)
    attention = stack.layers * 4 * seen * stack.width
    prompt = rates.seconds(tokens * (2 * weights + attention), ITEM * weights)
    return prompt + step(case, rates)


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
