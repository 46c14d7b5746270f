"""Fast tests are some of all combinations, with every value of every axis."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from crossed import beyond_fast, crossed

SHAPES = [(2,), (5,), (2, 2), (1, 3), (3, 4), (2, 3, 2), (2, 2, 2, 2), (5, 1, 3, 2)]


def axes_of(shape: tuple[int, ...]) -> list[list[str]]:
    return [
        [f"{axis}{value}" for value in range(size)]
        for axis, size in zip("abcd", shape, strict=False)
    ]


def assert_every_value_is_fast(fast: list[tuple[str, ...]], shape: tuple[int, ...]) -> None:
    wide = sum(size > 1 for size in shape)
    if wide > 1:
        assert {value for values in fast for value in values} == {*itertools.chain(*axes_of(shape))}
        assert 2 * len(fast) <= 1 + len([*itertools.product(*axes_of(shape))])


@pytest.mark.parametrize("shape", SHAPES)
def test_crossed_values_are_all_there(shape) -> None:
    sets = crossed(*axes_of(shape))
    assert [s.values for s in sets] == [*itertools.product(*axes_of(shape))]
    fast = [s.values for s in sets if not s.marks]
    assert_every_value_is_fast(fast, shape)
    if len(shape) == 1:
        assert fast == [s.values for s in sets[::3]]


@pytest.mark.parametrize("shape", SHAPES)
def test_tests_with_several_axes_are_partly_fast(shape) -> None:
    axes = axes_of(shape)

    def item(values: tuple[str, ...]) -> Any:
        """One whose first axis is of two parameters, and whose last is a fixture's."""
        names = "abcd"[: len(shape)]
        marks = [SimpleNamespace(args=("a, twin", axes[0]))]
        inner = [*zip(names, axes, strict=True)][1:-1]
        marks += [SimpleNamespace(args=([name], axis)) for name, axis in inner]
        parameters = dict(zip(names, values, strict=True)) | {"twin": values[0]}
        return SimpleNamespace(
            nodeid=f"file::test[{'-'.join(values)}]",
            callspec=SimpleNamespace(params=parameters),
            iter_markers=lambda _: marks,
            values=values,
        )

    items = [item(values) for values in itertools.product(*axes)]
    others = [*beyond_fast(items)]
    fast = [item.values for item in items if item not in others]
    assert len(fast) == len(items) if sum(size > 1 for size in shape) < 2 else others
    assert_every_value_is_fast(fast, shape)


def test_a_test_without_parameters_is_fast() -> None:
    plain = SimpleNamespace(nodeid="file::test", iter_markers=lambda _: [])
    items: Any = [plain]
    assert not [*beyond_fast(items)]
