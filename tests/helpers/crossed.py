"""Combinations of parameters: one half of them is fast, the other half slow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

# The parameters of the fixture `operators`.
OPERATORS = ("compiled", "pure PyTorch")


# Marks of what `make test` leaves out for its time.
REST = (pytest.mark.rest, pytest.mark.slow)


def crossed(*axes: Iterable[Any]) -> list[Any]:
    """Returns all combinations of the values of some axes, every other one as `rest`.

    Those are `slow`, and `make test-rest` runs them. In the half that is left, the values of all
    axes but any one meet in all combinations. A value that is a tuple is several parameters.
    """
    sets = []
    for combination in itertools.product(*map(enumerate, axes)):
        indices, chosen = zip(*combination, strict=True)
        values = [x for value in chosen for x in (value if isinstance(value, tuple) else (value,))]
        marks = REST if sum(indices) % 2 else ()
        sets.append(pytest.param(*values, marks=marks, id="-".join(map(str, values))))
    return sets
