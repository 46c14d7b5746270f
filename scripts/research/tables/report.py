"""Makes a document of the results: Markdown tables, plots and one HTML page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import research.paper_figures as paper
from el_attention.attention import ExpandedQuery, SharedProjection
from el_attention.cost import GIB, Architecture, Stack, Workload
from research import systems
from research.model import input_states
from research.tables import page, plots, store
from research.tables.cells import CAPPED, NO_CACHE, PER_BEAM, SEARCHES, STOCK, TABLES, Cell, cells

Result = dict[str, Any]
Results = dict[Cell, Result]

REPORTED = (*TABLES, CAPPED)
EXPANDED, SHARED = ExpandedQuery.name, SharedProjection.name
LABELS = {
    NO_CACHE: "multi-head, no cache",
    PER_BEAM: "multi-head, cache per beam (as 0.9)",
    STOCK: "multi-head, fairseq 0.12",
    EXPANDED: f"EL-attention, {EXPANDED}",
    SHARED: f"EL-attention, {SHARED}",
}
# The cost model's names for what the memory table measures.
MODELLED = {
    PER_BEAM: systems.FAIRSEQ_09,
    STOCK: systems.FAIRSEQ_012_BART,
    EXPANDED: systems.EXPANDED_QUERY,
    SHARED: systems.SHARED_PROJECTION,
}
# The paper's names for what both it and we measure.
PUBLISHED = {NO_CACHE: systems.NO_CACHE, PER_BEAM: systems.FAIRSEQ_09, EXPANDED: systems.PAPER_EL}


@dataclass(frozen=True)
class Section:
    """A table and its plots.

    Attributes:
        title: the title of the table.
        note: what its columns mean.
        header: names of the columns; the first `names` hold words, the others figures.
        names: number of columns that hold words.
        rows: a text per column.
        images: PNG by file name.
    """

    title: str
    note: str
    header: list[str]
    names: int
    rows: list[list[str]]
    images: dict[str, bytes] = field(default_factory=dict)


def load(folder: Path, table: str) -> Results:
    """The stored results of a table, in its order; cells that were not measured are left out."""
    groups = [paper.DTYPES] if table in SEARCHES else [(dtype,) for dtype in paper.DTYPES]
    wanted = [cell for dtypes in groups for cell in cells(table, dtypes)]
    found = {cell: store.read(folder, cell) for cell in wanted}
    return {cell: result for cell, result in found.items() if result is not None}


def sections(
    folder: Path, tables: Sequence[str] = REPORTED, plotted: bool = False
) -> list[Section]:
    """The sections of the tables that have results; `plotted`, with plots where they can be."""
    makers = {"batch_size": batch_section, "memory": memory_section, CAPPED: capped_section}
    loaded = {table: load(folder, table) for table in tables}
    found = {
        table: makers.get(table, speed_section)(results)
        for table, results in loaded.items()
        if results
    }
    if plotted and plots.is_possible() and "batch_size" in found:
        images = batch_plots(loaded["batch_size"])
        found["batch_size"] = replace(found["batch_size"], images=images)
    return list(found.values())


def speed_section(results: Results) -> Section:
    """Speeds at the largest batch that fits."""
    rows = []
    for cell, result in results.items():
        published = cell.row.multi_head, cell.row.el
        number = paper.DTYPES.index(cell.dtype)
        old = STOCK if cell.is_language_model else PER_BEAM
        theirs = {old: published[0][number], EXPANDED: published[1][number]}.get(cell.system)
        ratio = published[1][number] / published[0][number]
        rows.append(
            [
                cell.arch,
                cell.task,
                cell.dtype,
                LABELS[cell.system],
                ("≥ " if result.get("bounded") else "") + str(result.get("batch", "")),
                _speed(result),
                "" if theirs is None else f"{theirs:.1f}",
                _ratio(cell, results, old),
                f"{ratio:.1f}" if cell.system == EXPANDED else "",
                _ratio(cell, results, STOCK),
                _size(result.get("peak_bytes")),
                _differing(cell, results),
                _scores(result),
            ]
        )
    search = next(iter(results)).search
    return Section(
        f"Speed, {search} search",
        "Each at the largest batch that fits; ≥: larger ones would have needed more sentences. "
        "Samples/s without loading and post-processing. Published: Yan et al. (2021), V100 16 GB, "
        "fairseq 0.9 or, for GPT-2, Transformers 3.0.2. Ratios are of samples/s, to the cache per "
        "beam (of language models fairseq 0.12 has that too) and to fairseq 0.12. Differing: "
        "sentences whose best hypothesis is not fairseq 0.12's, and the largest relative gap of "
        "their scores. ROUGE: mean F1 x 100, of checkpoints with references.",
        "model|data|dtype|attention|batch|samples/s|published|x cache per beam|published|"
        "x fairseq 0.12|peak memory|differing|ROUGE-1 / 2 / L".split("|"),
        4,
        rows,
    )


def batch_section(results: Results) -> Section:
    """Speed and memory by batch."""
    rows = []
    for cell, result in results.items():
        known = next((s for system, s in paper.BATCHES if system == PUBLISHED.get(cell.system)), {})
        assert cell.batch is not None
        published = known.get(cell.batch)
        rows.append(
            [
                LABELS[cell.system],
                str(result["settings"]["batch"]),
                _speed(result),
                str(cell.batch),
                ("" if not known else "out of memory" if published is None else f"{published}"),
                _size(result.get("peak_bytes")),
                _differing(cell, results),
                _scores(result),
            ]
        )
    return Section(
        "Speed and memory by batch: bart.large, CNN/DM",
        "Samples/s without loading and post-processing. Published: Yan et al. (2021), V100 16 GB, "
        "float16, at the batch beside it. The breakdown is of one batch, timed part by part.",
        "attention|batch|samples/s|published at|published|peak memory|differing|"
        "ROUGE-1 / 2 / L".split("|"),
        1,
        rows,
    )


def memory_section(results: Results) -> Section:
    """States of inputs: counted, by formula, published."""
    rows = []
    for cell, result in results.items():
        settings = result["settings"]
        task = settings["task"]
        load = Workload(cell.dtype, settings["batch"], task["beam"], task["limit"], 0, 1)
        formula = input_states(_architecture(settings), MODELLED[cell.system], load)
        assert cell.batch is not None and cell.source is not None
        printed = paper.INPUT_STATES[cell.batch, cell.source]
        theirs = {PER_BEAM: f"{printed[0]} GB", EXPANDED: f"{printed[1]} GB"}.get(cell.system, "")
        rows.append(
            [
                LABELS[cell.system],
                str(settings["batch"]),
                str(task["limit"]),
                _size(result["input_state_bytes"]) if _is_measured(result) else result["status"],
                _size(formula),
                f"{cell.batch} x {cell.source}",
                theirs,
                _size(result.get("state_bytes")),
            ]
        )
    return Section(
        "Memory for input-related states: bart.large",
        "What encoder-decoder attention reads: bytes counted in the tensors of a running "
        "generation, and by formula. Published: Yan et al. (2021), float16, for the batch and "
        "source beside it. All states: whatever is kept between the first steps, encoder output "
        "and attention record included.",
        "attention|batch|source|counted|by formula|published at|published|all states".split("|"),
        1,
        rows,
    )


def capped_section(results: Results) -> Section:
    """Speed by batch and limit of memory, a column for each system."""
    rows = []
    for limit in dict.fromkeys(result["settings"]["memory"] for result in results.values()):
        chosen = {cell: r for cell, r in results.items() if r["settings"]["memory"] == limit}
        largest = max(_largest(result, "batch") or 0 for result in chosen.values())
        sentences = max(result["settings"]["sentences"] for result in chosen.values())
        batch = 1
        while batch <= min(2 * largest or 1, sentences):
            speeds = (_at(result, batch) for result in chosen.values())
            rows.append([_size(limit), str(batch), *speeds])
            batch *= 2
        peaks = [_largest(result, "peak_bytes") for result in chosen.values()]
        rows.append([_size(limit), "peak of the largest", *map(_size, peaks)])
        rows.append([_size(limit), "differing", *(_differing(cell, results) for cell in chosen)])
    return Section(
        "Speed by batch in limited memory: bart.large, CNN/DM",
        "Samples/s of a batch of sources at the limit of length, each with the longest hypotheses, "
        "encoder included. Limit: of what the process allocates once the model is loaded, so that "
        "weights come on top. Batches are generated as they are, never split, and doubled until "
        "memory runs out. Differing: sentences of the largest batch whose best hypothesis is not "
        "fairseq 0.12's, as far as that has them, and the largest relative gap of their scores.",
        ["limit", "batch", *dict.fromkeys(LABELS[cell.system] for cell in results)],
        2,
        rows,
    )


def _at(result: Result, batch: int) -> str:
    """Speed at one of the batches that were tried, or why there is none."""
    if result["status"] == store.FAILED:
        return store.FAILED
    speeds = {b["batch"]: b["samples_per_second"] for b in result.get("batches", [])}
    return f"{speeds[batch]:.2f}" if batch in speeds else "out of memory"


def _largest(result: Result, figure: str) -> float | None:
    """A figure of the largest batch that fitted."""
    return result["batches"][-1][figure] if "batches" in result else None


def _is_measured(result: Result) -> bool:
    return "hypotheses" in result or "input_state_bytes" in result


def _speed(result: Result) -> str:
    return f"{result['samples_per_second']:.1f}" if _is_measured(result) else result["status"]


def _size(size: float | None) -> str:
    if size is None:
        return ""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 2**10:.1f} KiB"


def _ratio(cell: Cell, results: Results, to: str) -> str:
    """Speed relative to another system's."""
    mine, theirs = results[cell], _other(cell, results, to)
    if cell.system == to or theirs is None or not (_is_measured(mine) and _is_measured(theirs)):
        return ""
    return f"{mine['samples_per_second'] / theirs['samples_per_second']:.2f}"


def _other(cell: Cell, results: Results, system: str) -> Result | None:
    """The result of another system for the same row; at any batch, if not at the same."""
    same = [
        other
        for other in results
        if other.system == system
        and (other.arch, other.task, other.dtype) == (cell.arch, cell.task, cell.dtype)
        and other.limit == cell.limit
        and _is_measured(results[other])
    ]
    same.sort(key=lambda other: other.batch != cell.batch)
    return results[same[0]] if same else None


def _differing(cell: Cell, results: Results) -> str:
    """How many hypotheses are not those of fairseq 0.12."""
    mine, stock = results[cell], _other(cell, results, STOCK)
    if cell.system == STOCK or stock is None or not _is_measured(mine):
        return ""
    pairs = list(zip(mine["hypotheses"], stock["hypotheses"], strict=cell.limit is None))
    gaps = [abs(a[0] - b[0]) / max(abs(a[0]), abs(b[0])) for a, b in pairs if a[1:] != b[1:]]
    return f"{len(gaps)} of {len(pairs)}" + (f" ({max(gaps):.0e})" if gaps else "")


def _scores(result: Result) -> str:
    """ROUGE, where there is text to compute it with."""
    return " / ".join(f"{value:.2f}" for value in result.get("scores", {}).values())


def _architecture(settings: dict[str, Any]) -> Architecture:
    values: dict[str, Any] = dict(settings["architecture"])
    for side in ("encoder", "decoder"):
        values[side] = values[side] and Stack(**values[side])
    return Architecture(**values)


def batch_plots(results: Results) -> dict[str, bytes]:
    """Throughput, memory and step time of the batch-size table: PNG by file name."""
    measured = {cell: result for cell, result in results.items() if _is_measured(result)}
    if not measured:
        return {}

    def by_batch(figure: str, unit: float) -> dict[str, list[tuple[float, float]]]:
        lines: dict[str, list[tuple[float, float]]] = {}
        for cell, result in measured.items():
            line = lines.setdefault(LABELS[cell.system], [])
            line.append((result["batch"], result[figure] / unit))
        return lines

    peak = max(result["peak_bytes"] for result in measured.values())
    unit, name = (GIB, "GiB") if peak >= GIB else (2**20, "MiB")
    # The breakdown of the largest batch that most systems have.
    batches = [result["batch"] for result in measured.values()]
    batch = max(batches, key=lambda size: (batches.count(size), size))
    parts = {
        LABELS[cell.system]: result["parts"]
        for cell, result in measured.items()
        if result["batch"] == batch
    }
    x, end = "batch, sentences", "out of memory"
    speeds, peaks = by_batch("samples_per_second", 1), by_batch("peak_bytes", unit)
    return {
        "throughput.png": plots.lines(speeds, x, "samples/s", "Throughput by batch", end),
        "memory.png": plots.lines(peaks, x, name, "Peak memory by batch", end),
        "breakdown.png": plots.bars(parts, "ms", 1e3, f"Where the time goes, batch of {batch}"),
    }


def markdown(found: Sequence[Section], links: bool = False) -> str:
    """The sections in Markdown; with `links`, their plots as well."""
    parts = []
    for section in found:
        parts += [f"## {section.title}", section.note]
        rule = ["---"] * section.names + ["---:"] * (len(section.header) - section.names)
        lines = (section.header, rule, *section.rows)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts += [f"![{name}]({name})" for name in section.images if links]
    return "\n\n".join(parts) + "\n"


def provenance(folder: Path) -> list[str]:
    """On what, with which versions, when and from which weights the results were made."""
    results = [result for table in REPORTED for result in load(folder, table).values()]
    made = [result for result in results if "machine" in result]
    lines = []
    for machine in _distinct(result["machine"] for result in made):
        lines.append("; ".join(f"{name}: {value}" for name, value in machine.items()))
    for source in _distinct(result["settings"]["source"] for result in made):
        lines.append(
            "Random weights and words, of the sizes in the files' settings."
            if source is None
            else f"Checkpoint {source['checkpoint']}, data {source['data']}."
        )
    for shrink in _distinct(result["settings"]["shrink"] for result in made):
        if shrink:
            factors = ", ".join(f"{what} / {factor}" for what, factor in shrink.items())
            lines.append(
                f"The paper's sizes made small: {factors}. The published figures are of its own "
                "sizes: compare what is out of memory where, and that hypotheses are equal."
            )
    for settings in _distinct(
        {name: result["settings"][name] for name in ("device", "memory", "sentences", "rounds")}
        for result in made
    ):
        memory = settings["memory"]
        limit = "no limit on memory" if memory is None else f"at most {_size(memory)} of memory"
        lines.append(
            f"Device {settings['device']}, {limit}, {settings['sentences']} sentences, "
            f"median of {settings['rounds']}."
        )
    if made:
        dates = sorted(result["date"] for result in made)
        lines.append(f"Measured {dates[0]} to {dates[-1]}.")
    failed = sum(result["status"] == store.FAILED for result in results)
    if failed:
        lines.append(f"{failed} cells failed: their files have the message.")
    return lines


def write(folder: Path) -> list[Path]:
    """Writes report.md, its plots and report.html beside the results.

    Raises:
        FileNotFoundError: if there are no results.
    """
    found = sections(folder, plotted=True)
    if not found:
        raise FileNotFoundError(f"{folder}: expected results of `run`, found none")
    if not plots.is_possible():
        print(f"report: no plots: {plots.REMEDY}", file=sys.stderr)
    title, lines = "The tables of EL-attention, measured", provenance(folder)
    text = "\n\n".join([f"# {title}", *lines, markdown(found, links=True)])
    html = page.html(title, lines, found)
    images = {name: image for section in found for name, image in section.images.items()}
    for name, image in images.items():
        (folder / name).write_bytes(image)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(html, encoding="utf-8")
    return [folder / name for name in ("report.md", "report.html", *images)]


def _distinct(items: Any) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
