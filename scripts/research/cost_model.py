#!/usr/bin/env python3
"""Holds the cost model against the paper's figures, and predicts today's devices.

PYTHONPATH=scripts python -m research.cost_model          # the tables, in Markdown
PYTHONPATH=scripts python -m research.cost_model --write  # the same, into COST_MODEL.md
PYTHONPATH=scripts python -m research.cost_model --fit    # fits the constants of attention/rates.py
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path

import research.paper_figures as paper
from el_attention.attention import FITTED
from el_attention.cost import ARCHITECTURES, DEVICES, GIB, Architecture, Device, Rates, Workload
from el_attention.cost.device import V100
from research.model import SystemModel, input_states, largest_batch, memory_of
from research.systems import (
    EXPANDED_QUERY,
    FAIRSEQ_012,
    FAIRSEQ_012_BART,
    FAIRSEQ_09,
    FAIRSEQ_LM,
    PAPER_EL,
    SHARED_PROJECTION,
    System,
)

DOCUMENT = Path(__file__).with_name("COST_MODEL.md")
MARKERS = "<!-- tables -->\n", "<!-- end of tables -->\n"
SENSITIVITY_MARKERS = "<!-- sensitivity -->\n", "<!-- end of sensitivity -->\n"
# "The largest batch that fits": the paper's sizes are 32, 64, 128 and 320.
SIZES = [1, 2, 4, 8, 16, 32, *range(64, 4097, 64)]


@dataclass(frozen=True)
class Cell:
    """A published ratio and the model's.

    Attributes:
        row: the row of the paper's table.
        dtype: the dtype of the cell.
        published: speeds of the baseline and of EL, samples/s.
        predicted: the same by the model.
        batches: largest batches that fit, by the model.
    """

    row: paper.Speed
    dtype: str
    published: tuple[float, float]
    predicted: tuple[float, float]
    batches: tuple[int, int]

    @property
    def ratios(self) -> tuple[float, float]:
        """Speed-up by EL: published, predicted. The former from speeds, before it was rounded."""
        return self.published[1] / self.published[0], self.predicted[1] / self.predicted[0]

    @property
    def error(self) -> float:
        """Predicted over published ratio, less one."""
        return self.ratios[1] / self.ratios[0] - 1


def workload(task: paper.Task, dtype: str, search: str, batch: int, source: int) -> Workload:
    """A batch of a task; diverse search takes each hypothesis as a group."""
    beam = 1 if search == "greedy" else task.beam
    groups = beam if search == "diverse beam" else 1
    return Workload(dtype, batch, beam, source, task.first_end, task.last_end, groups)


@cache
def batch_that_fits(row: paper.Speed, system: System, dtype: str) -> int:
    """The largest batch of the longest sources that fits a V100."""
    load = workload(row.task, dtype, row.search, 1, row.task.limit)
    return largest_batch(row.arch, system, load, V100, SIZES)


def cells(
    rates: Rates = FITTED, search: str | None = None, rows: Sequence[paper.Speed] = paper.SPEEDS
) -> list[Cell]:
    """Every ratio of the speed tables, or those of one."""
    found = []
    for row in rows:
        if search not in (None, row.search):
            continue
        for number, dtype in enumerate(paper.DTYPES):
            batches, speeds = [], []
            for system in row.systems:
                batches.append(batch_that_fits(row, system, dtype))
                load = workload(row.task, dtype, row.search, batches[-1], row.task.mean)
                speeds.append(speed(row.arch, system, load, V100, rates))
            published = row.multi_head[number], row.el[number]
            pair = speeds[0], speeds[1]
            found.append(Cell(row, dtype, published, pair, (batches[0], batches[1])))
    return found


def speed(
    arch: Architecture, system: System, load: Workload, device: Device, rates: Rates = FITTED
) -> float:
    """Samples per second."""
    return 1 / SystemModel(arch, system, load, device, rates).sample_seconds()


def loss(rates: Rates, rows: Sequence[paper.Speed] = paper.SPEEDS) -> float:
    """Sum of squared logarithms of predicted over published, ratios and speeds, beam search."""
    total = 0.0
    for cell in cells(rates, "beam", rows):
        baseline, el = (
            math.log(mine / theirs)
            for mine, theirs in zip(cell.predicted, cell.published, strict=True)
        )
        total += (el - baseline) ** 2 + baseline**2 + el**2
    return total


def fit(rows: Sequence[paper.Speed] = paper.SPEEDS) -> Rates:
    """Least squares by a pattern search in the logarithms; shares stay within 1."""
    best = Rates(half=0.5, single=0.9, stream=0.7, operation_seconds=15e-6)
    least, step = loss(best, rows), 0.3
    while step > 1e-3:
        improved = False
        for index in range(4):
            for sign in (1, -1):
                values = list(astuple(best))
                values[index] *= math.exp(sign * step)
                if index < 3:
                    values[index] = min(values[index], 1.0)
                trial = Rates(*values)
                value = loss(trial, rows)
                if value < least - 1e-9:
                    best, least, improved = trial, value, True
        if not improved:
            step /= 2
    return best


def rounded(value: float, like: str) -> str:
    """`value` with as many decimals as `like` has, halves up."""
    return str(Decimal(repr(value)).quantize(Decimal(like), ROUND_HALF_UP))


def memory_table() -> Iterator[str]:
    """Input-related states."""
    bart = ARCHITECTURES["bart.large"]
    yield "| batch | source | multi-head, published | model, GiB | EL, published | model, GiB |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for (batch, source), printed in paper.INPUT_STATES.items():
        load = Workload("float16", batch, 4, source, 0, 1)
        values = []
        for system, text in zip(paper.SPEEDS[1].systems, printed, strict=True):
            value = input_states(bart, system, load) / GIB
            values += [text, f"{rounded(value, text)} ({value:g})"]
        yield f"| {batch} | {source} | " + " | ".join(values) + " |"


def batch_table() -> Iterator[str]:
    """Out-of-memory boundary and speed by batch."""
    bart, task = ARCHITECTURES["bart.large"], paper.CNN_DM
    yield "| system | batch | published | model | peak memory, GiB |"
    yield "|---|---:|---:|---:|---:|"
    for system, speeds in paper.BATCHES:
        for batch, published in speeds.items():
            need = memory_of(bart, system, workload(task, "float16", "beam", batch, task.limit))
            load = workload(task, "float16", "beam", batch, task.mean)
            mine = f"{speed(bart, system, load, V100):.1f}" if need.fits(V100) else "out of memory"
            theirs = "out of memory" if published is None else f"{published}"
            yield f"| {system.name} | {batch} | {theirs} | {mine} | {need.peak / GIB:.1f} |"


def speed_table() -> Iterator[str]:
    """Ratios, speeds and batches."""
    yield (
        "| search | model | task | dtype | ratio, published | predicted | error "
        "| samples/s, published | predicted | batch, predicted |"
    )
    yield "|---|---|---|---|---:|---:|---:|---:|---:|---:|"
    for cell in cells():
        row = cell.row
        names = f"{row.search} | {row.arch.name} | {row.task.name} | {cell.dtype}"
        ratios = f"{cell.ratios[0]:.2f} | {cell.ratios[1]:.2f} | {cell.error:+.0%}"
        pairs = [f"{pair[0]:.1f} -> {pair[1]:.1f}" for pair in (cell.published, cell.predicted)]
        batches = f"{cell.batches[0]} -> {cell.batches[1]}"
        yield f"| {names} | {ratios} | {' | '.join(pairs)} | {batches} |"


def error_table() -> Iterator[str]:
    """Errors by search."""
    yield "| search | ratios | median error | largest error | within 25% |"
    yield "|---|---:|---:|---:|---:|"
    found = cells()
    for search in ("beam", "diverse beam", "greedy", None):
        name = "all" if search is None else search + (", fitted" if search == "beam" else "")
        errors = [abs(cell.error) for cell in found if search in (None, cell.row.search)]
        yield f"| {name} | {len(errors)} | {summary(errors)} |"


def summary(errors: Sequence[float]) -> str:
    """Median, maximum and number of errors within the aim."""
    close = sum(error <= 0.25 for error in errors)
    median = statistics.median(errors)
    return f"{median:.0%} | {max(errors):.0%} | {close} of {len(errors)}"


@dataclass(frozen=True)
class Varied(paper.Speed):
    """A row of the speed tables whose systems are counted in another way.

    Attributes:
        change: system -> system.
    """

    change: Callable[[System], System]

    @property
    def systems(self) -> tuple[System, System]:
        """The generators of the row, changed."""
        baseline, el = super().systems
        return self.change(baseline), self.change(el)


def of_other_tasks(change: Callable[[paper.Task], paper.Task]) -> list[paper.Speed]:
    """The speed tables with other assumptions about their tasks."""
    return [replace(row, task=change(row.task)) for row in paper.SPEEDS]


def of_other_systems(change: Callable[[System], System]) -> list[paper.Speed]:
    """The speed tables with other counts of what systems do."""
    return [
        Varied(row.arch, row.task, row.search, row.multi_head, row.el, change)
        for row in paper.SPEEDS
    ]


def with_row_operations(count: int) -> list[paper.Speed]:
    """The speed tables with another number of operators per hypothesis in Transformers' search."""
    return of_other_systems(
        lambda system: replace(system, row_operations=count) if system.row_operations else system
    )


def sensitivity_table() -> Iterator[str]:
    """What assumptions are worth: constants fitted anew under others."""
    variants = {
        "as assumed": list(paper.SPEEDS),
        "sources 20% longer": of_other_tasks(
            lambda task: replace(task, mean=min(task.mean * 6 // 5, task.limit))
        ),
        "sources 20% shorter": of_other_tasks(lambda task: replace(task, mean=task.mean * 4 // 5)),
        "all sources padded to the limit": of_other_tasks(
            lambda task: replace(task, mean=task.limit)
        ),
        "last sentence 20% later": of_other_tasks(
            lambda task: replace(task, last_end=task.last_end * 6 // 5)
        ),
        "last sentence 20% earlier": of_other_tasks(
            lambda task: replace(
                task,
                first_end=min(task.first_end, task.last_end * 4 // 5),
                last_end=task.last_end * 4 // 5,
            )
        ),
        "all sentences finish last": of_other_tasks(
            lambda task: replace(task, first_end=task.last_end)
        ),
        "0 operators per hypothesis in Transformers' search": with_row_operations(0),
        "13 of them": with_row_operations(13),
        "18 of them": with_row_operations(18),
        "EL encodes whole batches": of_other_systems(
            lambda system: replace(system, encoder_scores=None)
        ),
    }
    yield "| assumption | half, single, stream, host | median error | largest error | within 25% |"
    yield "|---|---:|---:|---:|---:|"
    for name, rows in variants.items():
        rates = fit(rows)
        shares = f"{rates.half:.2f}, {rates.single:.2f}, {rates.stream:.2f}"
        errors = [abs(cell.error) for cell in cells(rates, rows=rows)]
        host = f"{rates.operation_seconds * 1e6:.0f} us"
        yield f"| {name} | {shares}, {host} | {summary(errors)} |"


def baselines(arch: Architecture) -> tuple[System, System]:
    """Stock fairseq 0.9 and 0.12 for an architecture."""
    if arch.encoder is None:
        return FAIRSEQ_LM, FAIRSEQ_LM
    return FAIRSEQ_09, FAIRSEQ_012_BART if arch.name.startswith("bart") else FAIRSEQ_012


PREDICTED_BATCHES = (1, 8, 32, 128)
# Without the host: all operators issued in time, as CUDA graphs can.
DEVICE_ONLY = replace(FITTED, operation_seconds=0.0)


def prediction_load(arch: Architecture, batch: int) -> Workload:
    """Summarization, or a prompt of 512 tokens and no more for the Transformer: float16, beam 4."""
    source = 1024 if arch.name.startswith("bart") else 512
    return Workload("float16", batch, 4, source, 55, 140)


def speed_up(arch: Architecture, load: Workload, device: Device, old: System) -> str:
    """Expanded queries over `old`: with the host, and without; or what does not fit."""
    if not memory_of(arch, EXPANDED_QUERY, load).fits(device):
        return "-"
    if not memory_of(arch, old, load).fits(device):
        return "EL only"
    ratios = [
        speed(arch, EXPANDED_QUERY, load, device, rates) / speed(arch, old, load, device, rates)
        for rates in (FITTED, DEVICE_ONLY)
    ]
    return "{:.1f} ({:.1f})".format(*ratios)


def at_largest(arch: Architecture, device: Device, old: System) -> str:
    """The same, each at the largest batch that fits."""
    loads = [
        prediction_load(arch, largest_batch(arch, system, prediction_load(arch, 1), device, SIZES))
        for system in (old, EXPANDED_QUERY)
    ]
    ratios = [
        speed(arch, EXPANDED_QUERY, loads[1], device, rates)
        / speed(arch, old, loads[0], device, rates)
        for rates in (FITTED, DEVICE_ONLY)
    ]
    return "{:.1f} ({:.1f}) | {} -> {}".format(*ratios, loads[0].batch, loads[1].batch)


def prediction_table() -> Iterator[str]:
    """Speed-up of this package's expanded queries over stock fairseq."""
    batches = " | ".join(f"batch {batch}" for batch in PREDICTED_BATCHES)
    yield f"| device | model | against | {batches} | largest | largest batches |"
    yield "|---|---|---|" + "---:|" * (len(PREDICTED_BATCHES) + 2)
    for device in DEVICES.values():
        for arch in ARCHITECTURES.values():
            for old in dict.fromkeys(baselines(arch)):
                row = [
                    speed_up(arch, prediction_load(arch, batch), device, old)
                    for batch in PREDICTED_BATCHES
                ]
                row.append(at_largest(arch, device, old))
                yield f"| {device.name} | {arch.name} | {old.name} | {' | '.join(row)} |"


def largest_beam(arch: Architecture, dtype: str, device: Device) -> str:
    """The largest beam for which expanded queries read sources faster than shared projections."""

    def attention(system: System, beam: int) -> float:
        load = Workload(dtype, 32, beam, 1024, 1, 1)
        return SystemModel(arch, system, load, device, FITTED).step(32, 0).attention

    paying = [
        beam
        for beam in range(1, 65)
        if attention(EXPANDED_QUERY, beam) <= attention(SHARED_PROJECTION, beam)
    ]
    return str(max(paying, default="never")) if paying != [*range(1, 65)] else "any"


def crossover_table() -> Iterator[str]:
    """Where expanded queries stop paying against keys and values shared by the beams."""
    names = ("bart.base", "bart.large")
    columns = [(name, dtype) for name in names for dtype in paper.DTYPES]
    yield "| device | " + " | ".join(f"{name}, {dtype}" for name, dtype in columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    for device in DEVICES.values():
        row = [largest_beam(ARCHITECTURES[name], dtype, device) for name, dtype in columns]
        yield f"| {device.name} | {' | '.join(row)} |"


def breakdown_table() -> Iterator[str]:
    """Where the time of a batch goes, by the model, on the paper's example."""
    bart, task = ARCHITECTURES["bart.large"], paper.CNN_DM
    load = workload(task, "float16", "beam", 32, task.mean)
    systems = (FAIRSEQ_09, FAIRSEQ_012_BART, PAPER_EL, EXPANDED_QUERY, SHARED_PROJECTION)
    parts = {
        system.name: SystemModel(bart, system, load, V100, FITTED).batch() for system in systems
    }
    first = next(iter(parts.values()))
    yield "| system | " + " | ".join(first.table()) + " | total, s |"
    yield "|---|" + "---:|" * (len(first.table()) + 1)
    for name, seconds in parts.items():
        values = [f"{value:.2f}" for value in (*seconds.table().values(), seconds.total)]
        yield f"| {name} | {' | '.join(values)} |"


def tables() -> str:
    """All of them."""
    parts = {
        "Memory for input-related states": memory_table(),
        "Batch sizes: bart.large, CNN/DM, float16, samples/s": batch_table(),
        "Speed-up on a V100, published and predicted": speed_table(),
        "Errors of the predicted ratios": error_table(),
        "Where the time goes: bart.large, CNN/DM, float16, batch 32, V100, seconds per batch": (
            breakdown_table()
        ),
        "Predictions: expanded-query over stock fairseq, float16, beam 4": prediction_table(),
        "Largest beam for which expanded-query attention is not slower than shared-projection": (
            crossover_table()
        ),
    }
    return (
        "\n\n".join(f"### {title}\n\n" + "\n".join(lines) for title, lines in parts.items()) + "\n"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--fit", action="store_true", help="fit the constants and print them")
    choice.add_argument("--write", action="store_true", help=f"update {DOCUMENT.name}")
    choice.add_argument("--sensitivity", action="store_true", help="fit under other assumptions")
    options = parser.parse_args()
    if options.fit:
        print(fit())
    elif options.sensitivity:
        print("\n".join(sensitivity_table()))
    elif options.write:
        write(MARKERS, tables())
        write(SENSITIVITY_MARKERS, "\n".join(sensitivity_table()) + "\n")
    else:
        print(tables(), end="")


def write(markers: tuple[str, str], text: str) -> None:
    """Replaces what lies between two markers of the document."""
    before, rest = DOCUMENT.read_text().split(markers[0])
    after = rest.split(markers[1])[1]
    DOCUMENT.write_text(before + markers[0] + text + markers[1] + after)


if __name__ == "__main__":
    main()
