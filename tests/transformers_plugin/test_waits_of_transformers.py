"""A step of Transformers' generation waits for the device once; see `waits`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers.generation.stopping_criteria import MaxLengthCriteria, StoppingCriteriaList

import el_attention
from el_attention.transformers_plugin.version_4 import IS_4
from one_by_one import take_operators_one_by_one
from transformers_models import assert_served, build, inputs
from waits import watched

LONG = {"max_new_tokens": 12, "min_new_tokens": 12}


class OwnCriterion(MaxLengthCriteria):
    """One that might not like to be asked twice about a step."""


OWN = StoppingCriteriaList([OwnCriterion(12)])


@pytest.mark.skipif(IS_4, reason="beam search is that of Transformers 4")
@pytest.mark.parametrize(
    ("name", "options", "waits"),
    [
        ("bart", {"num_beams": 4, **LONG}, 1),
        ("bart", {"num_beams": 3, "max_new_tokens": 15, "early_stopping": True}, 1),
        ("bart", {"num_beams": 3, "max_new_tokens": 15, "no_repeat_ngram_size": 2}, 1),
        (
            "bart",
            {"num_beams": 2, "return_dict_in_generate": True, "output_scores": True, **LONG},
            1,
        ),
        ("bart", LONG, 1),
        ("gpt2", {"num_beams": 4, **LONG}, 1),
        ("t5", {"num_beams": 4, **LONG}, 1),
        ("gpt_neo", LONG, 1),
        # Whether the beams of a sentence have one position, for its bias.
        ("gpt_neo", {"num_beams": 4, **LONG}, 2),
        # Whether there are enough candidates, before criteria are asked, which is done once.
        ("bart", {"num_beams": 2, "stopping_criteria": OWN, **LONG}, 2),
    ],
)
def test_a_step_waits_once_and_copies_nothing_else(
    name: str, options: dict[str, Any], waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_operators_one_by_one(monkeypatch)  # as on a GPU
    stock = build(name)
    models = [el_attention.convert(copy.deepcopy(stock), "expanded-query") for _ in range(2)]
    arguments = inputs(stock)
    expected = models[0].generate(**arguments, **options)

    with watched() as steps:
        found = models[1].generate(**arguments, **options)
    assert_served(models[1])
    if "return_dict_in_generate" in options:
        expected, found = expected.sequences, found.sequences
    assert torch.equal(expected, found)
    _, first, *most, last = [step.totals for step in steps]
    places = [step.waits for step in steps]
    assert len(most) > 4
    assert all(step[:2] == (waits, 0) for step in most), places
    # The first may look at the prompt, the last at the lengths of the results.
    assert all(step[0] <= waits + 1 and step[1] == 0 for step in (first, last)), places
    # Besides the tree's step, for models with positions, where they go on.
    assert all(step[2] <= 2 for step in most), [step.sent for step in steps]
