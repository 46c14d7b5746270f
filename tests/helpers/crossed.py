"""Where parameters multiply: some of their combinations are fast tests, the others slow ones.

Of n axes about one combination in n is fast: those whose indices have a sum that n divides.  Every
value of every axis is among them: n - 1 other axes of two values or more have sums of every
remainder.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

# The parameters of the fixture `operators`.
OPERATORS = ("compiled", "pure PyTorch")


# Marks of what `make test` leaves out for its time.
REST = (pytest.mark.rest, pytest.mark.slow)


def crossed(*axes: Iterable[Any]) -> list[Any]:
    """Returns all combinations of the values of some axes, those that are not fast as `rest`.

    Of a single axis every third value is fast.  A value that is a tuple is several parameters.
    """
    values = [list(axis) for axis in axes]
    sets = []
    for combination in itertools.product(*map(enumerate, values)):
        indices, chosen = zip(*combination, strict=True)
        parameters = [
            x for value in chosen for x in (value if isinstance(value, tuple) else (value,))
        ]
        wide = [i for i, axis in zip(indices, values, strict=True) if len(axis) > 1]
        marks = () if _is_fast(wide, len(wide) if len(wide) > 1 else 3) else REST
        sets.append(pytest.param(*parameters, marks=marks, id="-".join(map(str, parameters))))
    return sets


def beyond_fast(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Yields the tests that are not fast, as far as their parameters multiply.

    The parameters of one `parametrize` are one axis, and so is a fixture that has some.
    """
    orders: dict[tuple[str, str], dict[tuple[int, ...], int]] = defaultdict(dict)
    placed = []
    for item in items:
        parameters: dict[str, Any] = dict(getattr(getattr(item, "callspec", None), "params", {}))
        axes = []
        for mark in item.iter_markers("parametrize"):
            names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
            axes.append([name.strip() for name in names if name.strip() in parameters])
        named = {name for names in axes for name in names}
        axes += [[name] for name in parameters if name not in named]
        test = item.nodeid.partition("[")[0]
        places = []
        for names in filter(None, axes):
            order = orders[test, names[0]]
            value = tuple(id(parameters[name]) for name in names)
            places.append((order, order.setdefault(value, len(order))))
        placed.append((item, places))
    for item, places in placed:
        wide = [index for order, index in places if len(order) > 1]
        if len(wide) > 1 and not _is_fast(wide, len(wide)):
            yield item


def _is_fast(indices: Sequence[int], axes: int) -> bool:
    return sum(indices) % axes == 0
