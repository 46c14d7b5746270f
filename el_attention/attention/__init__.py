"""Multi-head attention over shared states, by either of two exact plans."""

from el_attention.attention.candidates import (
    SELF,
    SOURCE,
    Candidate,
    best,
    candidate,
    candidates,
    largest_batch_in,
    largest_fitting,
    plans_of,
    ranges,
)
from el_attention.attention.planner import (
    EXPECTED_TOKENS,
    PLAN_CHOICES,
    UNKNOWN_LENGTHS,
    Choice,
    Lengths,
    Planner,
    plans_for,
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
from el_attention.attention.rates import FITTED, MEASURED, rates_of

__all__ = [
    "EXPECTED_TOKENS",
    "FITTED",
    "MEASURED",
    "PLANS",
    "PLAN_CHOICES",
    "SELF",
    "SOURCE",
    "UNKNOWN_LENGTHS",
    "Candidate",
    "Choice",
    "ExpandedQuery",
    "Lengths",
    "Plan",
    "Planner",
    "Projections",
    "Result",
    "SharedProjection",
    "Sink",
    "best",
    "candidate",
    "candidates",
    "largest_batch_in",
    "largest_fitting",
    "plans_for",
    "plans_of",
    "ranges",
    "rates_of",
]
