"""Records what self-attention reads while a model processes a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

# Of every attention, the states [P, sentences, width] of each of its calls, in order.
States = dict[nn.Module, list[Tensor]]

# fairseq's forward functions have no argument for it. Every thread has a value of its own.
_recorded: ContextVar[States | None] = ContextVar("recorded", default=None)


@contextmanager
def recorded_states() -> Iterator[States]:
    """Records the states of self-attention that this thread computes in the block."""
    states: States = {}
    token = _recorded.set(states)
    try:
        yield states
    finally:
        _recorded.reset(token)


def record(attention: nn.Module, states: Tensor) -> None:
    """Records `states` [P, sentences, width], if this thread processes a prompt."""
    recorded = _recorded.get()
    if recorded is not None:
        recorded.setdefault(attention, []).append(states)
