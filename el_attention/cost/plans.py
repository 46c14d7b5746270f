"""Which plan each attention follows, as far as cost depends on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plans:
    """The plans of a generation.

    Attributes:
        expanded: the states of the source or prompt are kept themselves, and queries are expanded;
            else their keys and values are kept.
        self_expanded: the same for the states of generated tokens. A language model has one
            attention over prompt and generated tokens, for which both are the same.
        part_tokens: sources or prompts are encoded in parts of at most this many tokens, but of a
            sentence at least; None for the whole batch at once.
    """

    expanded: bool = False
    self_expanded: bool = False
    part_tokens: int | None = None
