"""Chooses between the exact plans, by predicted time and by memory."""

from __future__ import annotations

from typing import NamedTuple

import torch

from el_attention.attention.candidates import SELF, SOURCE, Candidate, best, candidates, plans_of
from el_attention.attention.plans import PLANS, ExpandedQuery, Plan, SharedProjection
from el_attention.attention.rates import rates_of
from el_attention.cost import Architecture, Plans, Workload
from el_attention.robust.memory import free_bytes, in_units

PLAN_CHOICES = ("auto", *PLANS)
# The number of generated tokens that a plan is chosen for, where limits allow it: the true one is
# known only at the end.
EXPECTED_TOKENS = 64


class Lengths(NamedTuple):
    """What is known of a generation's lengths when it begins, in tokens.

    Attributes:
        prompt: tokens of the longest prompt; at least 1, the token that every sentence begins with.
        least: the fewest that may be generated.
        most: the most that may be generated; None without a limit.
    """

    prompt: int = 1
    least: int = 0
    most: int | None = None

    @property
    def expected(self) -> int:
        """The number of generated tokens that a plan is chosen for, at least 1."""
        most = EXPECTED_TOKENS if self.most is None else min(self.most, EXPECTED_TOKENS)
        return max(1, self.least, most)


UNKNOWN_LENGTHS = Lengths()


class Choice(NamedTuple):
    """A plan, and why it was chosen."""

    plan: Plan
    reason: str


class Planner:
    """Chooses the plans of a model, once for each generation.

    Attributes:
        name: the plan that was asked for, one of `PLAN_CHOICES`.
    """

    def __init__(self, name: str, architecture: Architecture, budget: int | None = None) -> None:
        """Takes what does not change between generations.

        Args:
            name: one of `PLAN_CHOICES`.
            architecture: the sizes of the model.
            budget: bytes for states and temporaries; None for all free memory.

        Raises:
            ValueError: if there is no such plan.
        """
        if name not in PLAN_CHOICES:
            raise ValueError(f"attention plan: expected one of {PLAN_CHOICES}, got {name!r}")
        self.name = name
        self._architecture = architecture
        self._budget = budget

    def choose_for(
        self,
        dtype: torch.dtype,
        device: torch.device,
        sentences: int,
        beam: int,
        source: int | None = None,
        lengths: Lengths = UNKNOWN_LENGTHS,
    ) -> dict[str, Choice]:
        """Returns the choice for each kind of attention, `SELF` and `SOURCE`, of a generation.

        Args:
            dtype: the dtype of the states.
            device: where they are.
            sentences: number of sentences.
            beam: beams of each.
            source: tokens of the longest source; None without one.
            lengths: what is known of the lengths of prompts and hypotheses.
        """
        load = Workload(
            dtype=str(dtype).removeprefix("torch."),
            batch=max(1, sentences),
            beam=beam,
            source=source or lengths.prompt,
            first_end=lengths.expected,
            last_end=lengths.expected,
        )
        return self.choose(load, device)

    def choose(self, load: Workload, device: torch.device) -> dict[str, Choice]:
        """Returns the choice for each kind of attention, `SELF` and `SOURCE`.

        "auto" takes the fastest of the plans whose states fit, by prediction; of equally fast ones
        the one with the smallest states.

        Args:
            load: what is generated.
            device: where it runs.
        """
        if self.name != "auto":
            choice = Choice(PLANS[self.name], "as requested")
            return {SELF: choice, SOURCE: choice}
        known, rates = rates_of(device, getattr(torch, load.dtype))
        found = candidates(self._architecture, load, known, rates)
        available = free_bytes(device) if self._budget is None else self._budget
        chosen = best(found, available)
        choices = {}
        for kind, expanded in chosen.expanded.items():
            other = {**chosen.expanded, kind: not expanded}
            (rejected,) = (candidate for candidate in found if candidate.expanded == other)
            choices[kind] = Choice(
                _plan(expanded),
                f"predicted {_time(chosen, load)} and {in_units(chosen.needed_bytes)}; with "
                f"{_plan(not expanded).name} {_time(rejected, load)} and "
                f"{in_units(rejected.needed_bytes)}; {in_units(available)} available",
            )
        return choices


def plans_for(
    name: str, arch: Architecture, load: Workload, device: torch.device, budget: float
) -> Plans:
    """Returns the plans that a generation takes, for the formulas of `cost/`.

    Args:
        name: one of `PLAN_CHOICES`.
        arch: the model.
        load: what is generated.
        device: where it runs.
        budget: bytes for states and temporaries, for "auto".
    """
    known, rates = rates_of(device, getattr(torch, load.dtype))
    if name == "auto":
        return plans_of(best(candidates(arch, load, known, rates), budget).expanded, known)
    return plans_of(dict.fromkeys((SELF, SOURCE), name == ExpandedQuery.name), known)


def _plan(expanded: bool) -> Plan:
    return PLANS[ExpandedQuery.name if expanded else SharedProjection.name]


def _time(candidate: Candidate, load: Workload) -> str:
    return f"{1e3 * candidate.seconds / load.last_end:.3g} ms per token"
