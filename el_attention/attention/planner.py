"""Chooses between the exact plans."""

from __future__ import annotations

from typing import NamedTuple

import torch

from el_attention.attention.plans import PLANS, Plan

PLAN_CHOICES = ("auto", *PLANS)


class Choice(NamedTuple):
    """A plan, and why it was chosen."""

    plan: Plan
    reason: str


def choose(name: str, device: torch.device) -> Choice:
    """Returns the plan called `name`; "auto" picks by device.

    On a CPU the multiply-adds that the expanded query adds (H times more per row) cost more than
    the memory traffic it saves; on a GPU it is the other way round.

    Args:
        name: one of `PLAN_CHOICES`.
        device: where attention runs.

    Raises:
        ValueError: if there is no such plan.
    """
    if name not in PLAN_CHOICES:
        raise ValueError(f"attention plan: expected one of {PLAN_CHOICES}, got {name!r}")
    if name != "auto":
        return Choice(PLANS[name], "as requested")
    if device.type == "cpu":
        return Choice(PLANS["shared-projection"], "a CPU is bound by arithmetic")
    return Choice(PLANS["expanded-query"], f"{device.type} is bound by memory")
