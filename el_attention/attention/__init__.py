"""Multi-head attention over shared states, by either of two exact plans."""

from el_attention.attention.planner import (
    EXPECTED_TOKENS,
    PLAN_CHOICES,
    Choice,
    Planner,
    system_for,
)
from el_attention.attention.plans import (
    PLANS,
    ExpandedQuery,
    Plan,
    Projections,
    Result,
    SharedProjection,
    Sink,
)
from el_attention.attention.rates import rates_of

__all__ = [
    "EXPECTED_TOKENS",
    "PLANS",
    "PLAN_CHOICES",
    "Choice",
    "ExpandedQuery",
    "Plan",
    "Planner",
    "Projections",
    "Result",
    "SharedProjection",
    "Sink",
    "rates_of",
    "system_for",
]
