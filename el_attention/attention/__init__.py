"""Multi-head attention over shared states, by either of two exact plans."""

from el_attention.attention.planner import PLAN_CHOICES, Choice, choose
from el_attention.attention.plans import (
    PLANS,
    ExpandedQuery,
    Plan,
    Projections,
    Result,
    SharedProjection,
    Sink,
)

__all__ = [
    "PLANS",
    "PLAN_CHOICES",
    "Choice",
    "ExpandedQuery",
    "Plan",
    "Projections",
    "Result",
    "SharedProjection",
    "Sink",
    "choose",
]
