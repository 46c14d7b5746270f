"""The cost model of the two plans: formulas done by hand, and what is refused."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import el_attention.cost
from el_attention.cost import (
    ARCHITECTURES,
    Architecture,
    CostModel,
    Device,
    Plans,
    Rates,
    Stack,
    Workload,
    input_states,
    memory_of,
)
from el_attention.cost.timing import LAYER_OPERATIONS, STEP_OPERATIONS

EXPANDED, SHARED = Plans(expanded=True, self_expanded=True), Plans()


def load(batch: int, source: int = 1024, beam: int = 4, dtype: str = "float16") -> Workload:
    return Workload(dtype, batch, beam, source, 55, 140)


def test_parameter_counts_are_the_paper_s() -> None:
    millions = {name: round(arch.weights / 1e6) for name, arch in ARCHITECTURES.items()}
    assert millions == {
        "bart.base": 139,
        "bart.large": 406,  # "400M"
        "transformer": 270,
        "gpt-2.small": 124,  # "117M", OpenAI's first count
        "gpt-2.medium": 355,  # "345M"
    }


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("encoder_width", [64, 96])
def test_expanded_queries_keep_one_copy_of_the_source_for_layers_heads_and_beams(
    batch, encoder_width
) -> None:
    stacks = Stack(3, 96, 128, 4), Stack(5, encoder_width, 128, 4)
    model = Architecture("tiny", *stacks, vocabulary=100)
    work = Workload("float32", batch, 3, 50, 0, 9)
    once = batch * 50 * 4
    assert input_states(model, EXPANDED, work) == once * encoder_width
    assert input_states(model, SHARED, work) == 2 * 3 * once * 96
    assert (memory_of(model, EXPANDED, work).outputs, memory_of(model, SHARED, work).outputs) == (
        0,
        once * encoder_width,
    )
    assert input_states(replace(model, encoder=None), EXPANDED, work) == 3 * once * 96


def test_the_parts_of_a_step_are_a_roofline_done_by_hand() -> None:
    model = Architecture("tiny", Stack(2, 8, 16, 2), Stack(2, 8, 16, 2), vocabulary=10)
    device = Device("slow", 1e9, 1e3, {"float32": 1e3})
    rates = Rates(half=1, single=0.5, stream=0.25, operation_seconds=2.0)
    seconds = CostModel(model, SHARED, Workload("float32", 3, 2, 5, 1, 4), device, rates).step(3, 0)
    rows = 6
    layer = max(2 * rows * (4 * 64 + 2 * 128 + 2 * 64) / 500, (4 * 64 + 2 * 128 + 2 * 64) * 4 / 250)
    assert seconds.linear == pytest.approx(2 * (layer + rows * (24 * 8 + 8 * 16) * 4 / 250))
    # Keys and values: five of the source for three sentences, one of itself for six hypotheses.
    source, own = 2 * 3 * 5 * 8 * 4 / 250, 2 * 6 * 8 * 4 / 250
    assert seconds.attention == pytest.approx(2 * (source + own))
    working = seconds.linear + seconds.vocabulary + seconds.attention
    waiting = max(0, 2 * LAYER_OPERATIONS * 2.0 - working) + STEP_OPERATIONS * 2.0
    assert seconds.overhead == pytest.approx(waiting) and seconds.encoding == 0
    assert seconds.total == pytest.approx(working + waiting)


def test_phases_keep_the_steps_and_the_mean_of_active_sentences() -> None:
    phases = list(load(32).phases())
    assert sum(steps for steps, _, _ in phases) == pytest.approx(140)
    active = sum(steps * sentences for steps, sentences, _ in phases)
    assert active == pytest.approx(32 * (55 + 140) / 2)
    assert all(0 <= generated <= 140 for _, _, generated in phases)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, "dtype: expected one of"),
        ({"batch": 0}, "sizes of at least 1"),
        ({"first_end": 141}, "first_end <= last_end"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(load(1), **change)


def test_the_model_imports_neither_torch_nor_fairseq() -> None:
    names = set()
    for file in Path(el_attention.cost.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
    assert names <= {*sys.stdlib_module_names, "el_attention"}
