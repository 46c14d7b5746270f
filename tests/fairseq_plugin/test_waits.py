"""A step of fairseq's generation waits for the device once; see `waits`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import el_attention
from one_by_one import take_operators_one_by_one
from tiny import assert_same, batch, build, dictionary, diverse, generator_of, prompts
from waits import watched

SYMBOLS = dictionary()
LONG = {"max_len_b": 14, "min_len": 14}  # nothing finishes, and there is a second segment


@pytest.mark.parametrize(
    ("family", "models", "options"),
    [
        ("bart", 1, {"beam": 4, **LONG}),
        ("transformer", 1, {"beam": 1, **LONG}),
        ("bart", 2, {"beam": 2, "max_len_b": 9, "min_len": 9}),
        ("bart", 1, {"beam": 4, "max_len_b": 24, "no_repeat_ngram_size": 2}),
        ("bart", 1, {"beam": 4, "max_len_b": 24}),
        ("lm", 1, {"beam": 4, "max_len_b": 24}),
    ],
    ids=["beam", "greedy", "ensemble", "n-grams", "finishing", "prompts"],
)
def test_a_step_waits_once_and_copies_nothing_else(
    family: str, models: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_operators_one_by_one(monkeypatch)  # as on a GPU
    sample = batch(SYMBOLS, [9, 5, 7, 2])
    given = {"prefix_tokens": prompts(SYMBOLS, [6, 3, 1, 6])} if family == "lm" else {}
    nothing_finishes = "min_len" in options
    first = build(family, SYMBOLS)
    if not nothing_finishes:
        first = diverse(family, SYMBOLS, sample, options, **given)
    networks = [first, *(build(family, SYMBOLS, seed) for seed in range(1, models))]
    generators = [generator_of(networks, SYMBOLS, options) for _ in range(2)]
    for generator in generators:
        el_attention.convert(generator, "expanded-query")
    expected = generators[0].generate(None, copy.deepcopy(sample), **given)

    with watched() as steps:
        found = generators[1].generate(None, sample, **given)
    assert_same(expected, found, tolerance=0.0)
    totals = [step.totals for step in steps[1:]]
    # Each model of an ensemble takes a step of its own.
    first, *most, last = [
        [sum(numbers) for numbers in zip(*totals[i : i + models], strict=True)]
        for i in range(0, len(totals), models)
    ]
    assert len(most) > 6
    places = [step.waits for step in steps]
    assert all(waits == 1 and copies == 0 for waits, copies, _ in most), places
    # At the first the other models look for padding; the last is followed by the ranking.
    assert first[:2] == [models, 0] and last[:2] == [2, 0], places
    if nothing_finishes:
        assert all(sent == models for _, _, sent in most), "each tree sends its step, and only that"
