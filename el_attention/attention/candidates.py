"""Which exact plan each attention should follow: all combinations, their time and their memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from el_attention.cost import (
    CPU,
    PART_TOKENS,
    Architecture,
    CostModel,
    Device,
    Plans,
    Rates,
    Workload,
    memory_of,
)

# Relative difference below which two times count as equal.
EQUAL = 0.005
LARGEST = 2**20  # upper bound of the searches for a size
# The kinds of attention that have a plan of their own.
SELF, SOURCE = "self-attention", "encoder-decoder attention"


@dataclass(frozen=True)
class Candidate:
    """A choice of plans, and what it costs.

    Attributes:
        expanded: says for each kind of attention of the model whether it expands its query; if not,
            it projects its states.
        step_seconds: the predicted time of a step with the full batch, half-way through.
        seconds: the predicted time of the batch: encoder or prompt, then all steps.
        state_bytes: kept between steps at the end, the encoder output included.
        needed_bytes: states and the temporaries of a step.
        peak_bytes: the memory at the worst moment, weights not included.
    """

    expanded: Mapping[str, bool]
    step_seconds: float
    seconds: float
    state_bytes: float
    needed_bytes: float
    peak_bytes: float


def plans_of(expanded: Mapping[str, bool], device: Device) -> Plans:
    """Returns the plans of each kind of attention, with or without expanded queries.

    Args:
        expanded: see `Candidate`.
        device: what it runs on.
    """
    return Plans(
        # A language model has one attention, over prompt and generated tokens.
        expanded=expanded.get(SOURCE, expanded[SELF]),
        self_expanded=expanded[SELF],
        part_tokens=PART_TOKENS if device.name == CPU.name else None,
    )


def candidates(arch: Architecture, load: Workload, device: Device, rates: Rates) -> list[Candidate]:
    """Returns all combinations of plans for a model, with what they are predicted to cost.

    Args:
        arch: the model.
        load: what is generated.
        device: what it runs on.
        rates: what software reaches of the device.
    """
    kinds = (SELF,) if arch.encoder is None else (SELF, SOURCE)
    return [
        candidate(arch, load, device, rates, dict(zip(kinds, expanded, strict=True)))
        for expanded in product((True, False), repeat=len(kinds))
    ]


def candidate(
    arch: Architecture, load: Workload, device: Device, rates: Rates, expanded: Mapping[str, bool]
) -> Candidate:
    """Returns one combination of plans, see `candidates` and `Candidate`."""
    plans = plans_of(expanded, device)
    model, memory = CostModel(arch, plans, load, device, rates), memory_of(arch, plans, load)
    return Candidate(
        expanded=expanded,
        step_seconds=model.step(load.batch, load.last_end / 2).total,
        seconds=model.batch().total,
        state_bytes=memory.states,
        needed_bytes=memory.states + memory.decoding,
        peak_bytes=memory.peak - memory.weights,
    )


def best(found: Sequence[Candidate], available: float) -> Candidate:
    """Returns the fastest candidate that fits, or the smallest if none does.

    Of candidates that are about equally fast the one with the smallest states is returned.

    Args:
        found: the candidates, at least one.
        available: bytes for states and temporaries.
    """
    fitting = [candidate for candidate in found if candidate.needed_bytes <= available]
    if not fitting:
        return min(found, key=lambda candidate: candidate.needed_bytes)
    least = min(candidate.seconds for candidate in fitting)
    equal = [c for c in fitting if c.seconds <= least * (1 + EQUAL)]
    return min(equal, key=lambda candidate: (candidate.state_bytes, candidate.seconds))


def largest_fitting(fits: Callable[[int], bool], limit: int = LARGEST) -> int:
    """Returns the largest size up to `limit` for which `fits` is true, or 0 if there is none.

    Args:
        fits: false for all sizes above one for which it is false.
        limit: a number, at least 1.
    """
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_batch_in(
    arch: Architecture, plans: Plans, load: Workload, available: float, limit: int = LARGEST
) -> int:
    """Returns the most sentences whose generation, encoder included, takes `available` bytes.

    Args:
        arch: the model; its weights do not count.
        plans: the plans of its attentions.
        load: what is generated; its own batch does not matter.
        available: bytes.
        limit: the largest batch to consider.
    """

    def fits(batch: int) -> bool:
        memory = memory_of(arch, plans, load.with_batch(batch))
        return memory.peak - memory.weights <= available

    return largest_fitting(fits, limit)


def ranges(
    arch: Architecture,
    load: Workload,
    device: Device,
    rates: Rates,
    available: float,
    field: str,
    values: Sequence[int],
) -> list[tuple[int, int, Candidate]]:
    """Returns where the best candidate changes while one size grows.

    Args:
        arch: the model.
        load: what is generated.
        device: what it runs on.
        rates: what software reaches of the device.
        available: bytes for states and temporaries.
        field: the field of `Workload` that grows: "batch", "beam" or "source".
        values: the values that it takes, in order, at least one.

    Returns:
        First and last value of each range in which one choice of plans is best, and that choice at
        the first value.
    """
    found: list[tuple[int, int, Candidate]] = []
    for value in values:
        sized: Workload = replace(load, **{field: value})  # type: ignore[arg-type]
        chosen = best(candidates(arch, sized, device, rates), available)
        if found and found[-1][2].expanded == chosen.expanded:
            first, _, earlier = found[-1]
            found[-1] = first, value, earlier
        else:
            found.append((value, value, chosen))
    return found
