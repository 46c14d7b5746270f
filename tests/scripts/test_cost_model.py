"""The cost model against every figure of the paper, and against measurements of fairseq."""

from __future__ import annotations

import importlib
import statistics
from dataclasses import astuple, replace
from itertools import product

import pytest

from el_attention import cost
from el_attention.attention import FITTED
from el_attention.cost import (
    ARCHITECTURES,
    DEVICES,
    GIB,
    Architecture,
    CostModel,
    Device,
    Plans,
    Rates,
    Stack,
    Workload,
)
from el_attention.cost.device import V100
from research.model import SystemModel, input_states, memory_of
from research.systems import (
    EXPANDED_QUERY,
    FAIRSEQ_012,
    FAIRSEQ_012_BART,
    FAIRSEQ_09,
    FAIRSEQ_LM,
    PAPER_EL,
    SHARED_PROJECTION,
    TRANSFORMERS_3,
)

cost_model = importlib.import_module("research.cost_model")
paper = importlib.import_module("research.paper_figures")

BART = ARCHITECTURES["bart.large"]
SYSTEMS = [FAIRSEQ_09, FAIRSEQ_012, FAIRSEQ_012_BART, PAPER_EL, EXPANDED_QUERY, SHARED_PROJECTION]
INPUT_CELLS = [
    (cell, name, system, printed[index])
    for cell, printed in paper.INPUT_STATES.items()
    for index, (name, system) in enumerate((("multi-head", FAIRSEQ_09), ("EL", PAPER_EL)))
]
CELLS = cost_model.cells()
# Further than 25% off; scripts/research/COST_MODEL.md says why.
MISSES = {("greedy", "bart.large", "XSum", "float16")}


def load(batch: int, source: int = 1024, beam: int = 4, dtype: str = "float16") -> Workload:
    return Workload(dtype, batch, beam, source, 55, 140)


@pytest.mark.parametrize(("cell", "name", "system", "printed"), INPUT_CELLS)
def test_states_of_inputs_are_as_printed_in_the_memory_table(cell, name, system, printed) -> None:
    batch, source = cell
    value = input_states(BART, system, load(batch, source)) / GIB
    mine = cost_model.rounded(value, printed)
    if (cell, name) != paper.CONTRADICTORY:
        assert mine == printed
    else:
        # What is printed for four times the length excludes what is printed here.
        assert (mine, printed) == ("0.16", "0.15")
        longer = float(paper.INPUT_STATES[batch, 4 * source][1])
        assert 4 * (float(printed) + 0.005) < longer - 0.005


@pytest.mark.parametrize(
    ("system", "batch", "speed"),
    [(system, batch, speed) for system, row in paper.BATCHES for batch, speed in row.items()],
)
def test_a_batch_fits_16_gb_where_the_paper_has_a_speed(system, batch, speed) -> None:
    assert memory_of(BART, system, load(batch)).fits(V100) == (speed is not None)


@pytest.mark.parametrize(
    ("system", "batch", "speed"),
    [(s, batch, speed) for s, row in paper.BATCHES for batch, speed in row.items() if speed],
)
def test_speeds_by_batch_are_within_a_quarter(system, batch, speed) -> None:
    mine = cost_model.speed(BART, system, load(batch, paper.CNN_DM.mean), V100)
    assert mine == pytest.approx(speed, rel=0.25)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.row.search}-{cell.row.arch.name}")
def test_ratios_are_within_a_quarter_of_the_published(cell) -> None:
    name = (cell.row.search, cell.row.arch.name, cell.row.task.name, cell.dtype)
    assert (abs(cell.error) > 0.25) == (name in MISSES)


@pytest.mark.parametrize(
    ("searches", "number"), [(("beam",), 10), (("diverse beam", "greedy"), 16)]
)
def test_half_of_the_ratios_are_within_12_percent_fitted_or_not(searches, number) -> None:
    errors = [abs(cell.error) for cell in CELLS if cell.row.search in searches]
    assert len(errors) == number
    assert statistics.median(errors) < 0.12


def test_the_paper_s_largest_batches_are_found() -> None:
    (row,) = [r for r in paper.SPEEDS if r.task is paper.CNN_DM and r.search == "beam"]
    found = [cost_model.batch_that_fits(row, system, "float16") for system in row.systems]
    assert found == [32, 320]


def test_the_constants_are_the_least_squares_fit_to_the_beam_table() -> None:
    assert len(astuple(FITTED)) == 5 and FITTED.batched == 1  # which is not fitted
    least = cost_model.loss(FITTED)
    for index, factor in product(range(4), (0.97, 1.03)):
        values = list(astuple(FITTED))
        values[index] *= factor
        if index < 3 and values[index] > 1:
            continue  # no share of a peak is above it
        assert cost_model.loss(Rates(*values)) > least


# Measured of stock fairseq 0.12, float32, batch 32, source 1024, beam 4, 141 tokens, MiB.
@pytest.mark.parametrize(
    ("name", "system", "outputs", "inputs", "generated", "record"),
    [
        ("bart.base", FAIRSEQ_012_BART, 2 * 96, 1152, 634.5, 71),
        ("bart.base", FAIRSEQ_012, 2 * 384, 4608, 634.5, 71),
        ("bart.large", FAIRSEQ_012_BART, 2 * 128, 3072, 1692, 71),
        ("bart.large", FAIRSEQ_012, 2 * 512, 12288, 1692, 71),
        ("bart.base", EXPANDED_QUERY, 0, 96, 317.25, 0),
        ("bart.large", EXPANDED_QUERY, 0, 128, 846, 0),
    ],
)
def test_states_are_those_measured(name, system, outputs, inputs, generated, record) -> None:
    need = memory_of(ARCHITECTURES[name], system, Workload("float32", 32, 4, 1024, 0, 141))
    mebibytes = [
        part / 2**20 for part in (need.outputs, need.input_states, need.self_states, need.record)
    ]
    # The record is kept twice, to be reordered; measured was one.
    assert mebibytes == pytest.approx([outputs, inputs, generated, 2 * record], rel=0.01)


# Measured on 2 cores, milliseconds per layer: float32, BART-large, batch 4, beam 4, source 1024.
@pytest.mark.parametrize(("system", "measured"), [(EXPANDED_QUERY, 9.4), (SHARED_PROJECTION, 2.4)])
def test_attention_at_peak_rates_is_a_floor_near_what_a_cpu_reached(system, measured) -> None:
    cpu = Device("2 cores", 24e9, 26e9, {"float32": 123e9})
    peak = Rates(half=1, single=1, stream=1, operation_seconds=0)
    model = SystemModel(BART, system, load(4, dtype="float32"), cpu, peak)
    mine = model.step(4, 0).attention / BART.decoder.layers * 1e3
    assert measured / 2 < mine < measured * 1.1


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_more_work_takes_more_time_and_memory(system, device) -> None:
    small, large = load(8), load(16)
    models = [SystemModel(BART, system, each, device, FITTED) for each in (small, large)]
    assert models[0].batch().total < models[1].batch().total
    assert models[0].sample_seconds() > models[1].sample_seconds()
    assert memory_of(BART, system, small).peak < memory_of(BART, system, large).peak


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("encoder_width", [64, 96])
def test_expanded_queries_keep_one_copy_of_the_source_for_layers_heads_and_beams(
    batch, encoder_width
) -> None:
    stacks = Stack(3, 96, 128, 4), Stack(5, encoder_width, 128, 4)
    model = Architecture("tiny", *stacks, vocabulary=100)
    work = Workload("float32", batch, 3, 50, 0, 9)
    once = batch * 50 * 4
    assert input_states(model, EXPANDED_QUERY, work) == once * encoder_width
    assert input_states(model, SHARED_PROJECTION, work) == 2 * 3 * once * 96
    assert input_states(model, FAIRSEQ_09, work) == 2 * 3 * 3 * once * 96
    language_model = replace(model, encoder=None)
    assert input_states(language_model, EXPANDED_QUERY, work) == 3 * once * 96
    assert input_states(language_model, FAIRSEQ_LM, work) == 2 * 3 * 3 * once * 96


def test_the_parts_of_a_step_are_a_roofline_done_by_hand() -> None:
    model = Architecture("tiny", Stack(2, 8, 16, 2), Stack(2, 8, 16, 2), vocabulary=10)
    device = Device("slow", 1e9, 1e3, {"float32": 1e3})
    rates = Rates(half=1, single=0.5, stream=0.25, operation_seconds=2.0)
    step = SystemModel(model, SHARED_PROJECTION, Workload("float32", 3, 2, 5, 1, 4), device, rates)
    rows = 6
    layer = max(2 * rows * (4 * 64 + 2 * 128 + 2 * 64) / 500, (4 * 64 + 2 * 128 + 2 * 64) * 4 / 250)
    seconds = step.step(3, 0)
    assert seconds.linear == pytest.approx(2 * (layer + rows * (24 * 8 + 8 * 16) * 4 / 250))
    # Keys and values: five of the source for three sentences, one of itself for six hypotheses.
    source, own = 2 * 3 * 5 * 8 * 4 / 250, 2 * 6 * 8 * 4 / 250
    assert seconds.attention == pytest.approx(2 * (source + own))
    assert seconds.copying == seconds.encoding == 0
    layers = 2 * SHARED_PROJECTION.layer_operations * 2.0
    working = seconds.linear + seconds.vocabulary + seconds.attention
    search = SHARED_PROJECTION.step_operations * 2.0
    assert seconds.overhead == pytest.approx(max(0, layers - working) + search)
    assert seconds.total == pytest.approx(working + seconds.overhead)


def test_an_encoder_in_parts_needs_only_its_output_for_a_larger_batch() -> None:
    one, parts, more = (memory_of(BART, PAPER_EL, load(n)).encoding for n in (32, 64, 320))
    assert more - parts == 256 * 1024 * 1024 * 2
    whole, twice = (memory_of(BART, FAIRSEQ_09, load(batch)).encoding for batch in (32, 64))
    assert whole == one and twice == 2 * whole


def test_states_are_copied_as_often_as_the_source_code_does() -> None:
    """Bytes per step, of GPT-2 in Transformers: 4 passes to append, 2 for a new order of beams."""
    gpt2, device = ARCHITECTURES["gpt-2.small"], Device("unit", 1e12, 1.0, {"float32": 1.0})
    rates = Rates(half=1, single=1, stream=1, operation_seconds=0)
    for beam, passes in ((1, 4), (4, 6)):
        work = load(3, source=50, beam=beam, dtype="float32")
        step = SystemModel(gpt2, TRANSFORMERS_3, work, device, rates).step(3, 7)
        assert step.copying == passes * 2 * 12 * 3 * beam * (50 + 7) * 768 * 4


def test_a_dtype_that_a_device_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"V100.*float16.*got 'bfloat16'"):
        SystemModel(BART, PAPER_EL, load(1, dtype="bfloat16"), V100, FITTED).batch()


def between(markers: tuple[str, str]) -> str:
    """What lies between two markers of the document."""
    start, end = markers
    return cost_model.DOCUMENT.read_text().split(start)[1].split(end)[0]


def test_the_document_holds_the_tables_as_they_are() -> None:
    assert between(cost_model.MARKERS) == cost_model.tables()


@pytest.mark.slow
def test_the_document_holds_the_sensitivity_as_it_is() -> None:
    expected = "\n".join(cost_model.sensitivity_table()) + "\n"
    assert between(cost_model.SENSITIVITY_MARKERS) == expected


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda arch: arch.name)
@pytest.mark.parametrize("expanded", [True, False])
def test_the_general_model_of_a_plan_is_the_model_of_the_planner(arch, expanded) -> None:
    plans = Plans(expanded, expanded)
    system = replace(
        EXPANDED_QUERY if expanded else SHARED_PROJECTION, layer_operations=45, step_operations=60
    )
    for device, dtype in product(DEVICES.values(), ("float16", "float32")):
        work = load(7, 300, 3, dtype)
        general = SystemModel(arch, system, work, device, FITTED)
        mine = CostModel(arch, plans, work, device, FITTED)
        assert general.step(5.5, 20).table() == {**mine.step(5.5, 20).table(), "copying": 0}
        assert general.batch().total == pytest.approx(mine.batch().total)
        needed, expected = memory_of(arch, system, work), cost.memory_of(arch, plans, work)
        for part in ("weights", "input_states", "self_states", "decoding", "states"):
            if part != "states" or arch.encoder is not None:
                assert getattr(needed, part) == getattr(expected, part), part


def test_other_counts_change_the_systems_that_have_them_and_no_others() -> None:
    rows = cost_model.with_row_operations(13)
    for row, varied in zip(paper.SPEEDS, rows, strict=True):
        count = 13 if row.arch.encoder is None else 0
        assert varied.systems == tuple(replace(s, row_operations=count) for s in row.systems)
        assert (varied.arch, varied.task, varied.search) == (row.arch, row.task, row.search)
    same = cost_model.of_other_systems(lambda system: system)
    assert cost_model.loss(FITTED, same) == cost_model.loss(FITTED)
    assert cost_model.loss(FITTED, rows) != cost_model.loss(FITTED)
