"""Makes Markdown tables and plots of measured cases."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import MODELS
from research.tables import plots

Result = dict[str, Any]

FLOOR = "floor"
# Systems to whose times those of all are set in proportion.
RIVALS = ("fairseq", "huggingface", "ctranslate2")
_OF = "|".join(f"of {name}" for name in RIVALS)
HEADER = (
    f"batch|system|turns|first, ms|step, ms|of the floor|{_OF}|generation, s|{_OF}|"
    "samples/s|peak, MiB|by formula, MiB|of that|hypotheses"
).split("|")


def markdown(document: Result) -> str:
    """The tables of a run, with what they were measured on."""
    machine = ", ".join(f"{name} {value}" for name, value in document["machine"].items())
    rates, settings = document["rates"], document["settings"]
    lines = [
        f"{machine}; {document['date']}.",
        f"Beam {settings['beam']}, {settings['steps']} steps, {settings['threads']} threads, "
        "float32. "
        f"Reading {rates['read'] / 1e9:.1f} GB/s, matrix product "
        f"{rates['product'] / 1e9:.0f} GFLOP/s.",
    ]
    for name in dict.fromkeys(case["settings"]["model"] for case in document["cases"]):
        cases = [case for case in document["cases"] if case["settings"]["model"] == name]
        lines += ["", f"### {title(cases[0]['settings'])}", "", row(HEADER)]
        lines.append(row(["---:", "---", *["---:"] * (len(HEADER) - 3), "---"]))
        for case in cases:
            lines += [row(cells) for cells in rows(case)]
    return "\n".join(lines) + "\n"


def title(settings: Result) -> str:
    """Names a model and its sources."""
    kind = "prompts" if MODELS[settings["model"]].sizes.encoder is None else "sources"
    return f"{settings['model']}, {kind} of {settings['source']} tokens"


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def rows(case: Result) -> list[list[str]]:
    """The lines of a case: the systems, then the floor."""
    systems, batch = case["systems"], case["settings"]["batch"]
    floor_first, floor_step = case["floor"]["first"], case["floor"]["step"]
    floor_all = floor_first + (case["settings"]["steps"] - 1) * floor_step

    def ratios(kind: str, mine: float) -> list[str]:
        return [
            f"{mine / median(systems[other], kind):.2f}" if other in systems else ""
            for other in RIVALS
        ]

    lines = []
    for name, result in systems.items():
        first, step, seconds = (median(result, kind) for kind in ("first", "step", "seconds"))
        lines.append(
            [
                str(batch),
                name,
                str(len(result["seconds"])),
                f"{1000 * first:,.0f}",
                f"{1000 * step:,.1f}",
                f"{step / floor_step:.2f}",
                *ratios("step", step),
                f"{seconds:.2f}",
                *ratios("seconds", seconds),
                f"{batch / seconds:.2f}",
                *memory(result),
                verdict(result, batch),
            ]
        )
    floor = [str(batch), FLOOR, "", f"{1000 * floor_first:,.0f}", f"{1000 * floor_step:,.1f}"]
    floor += ["1.00", *ratios("step", floor_step), f"{floor_all:.2f}"]
    floor += [*ratios("seconds", floor_all), f"{batch / floor_all:.2f}", *[""] * 4]
    return [*lines, floor]


def memory(result: Result) -> list[str]:
    """The peak, what was predicted, and the share of the first in the second."""
    peak = result["peak"]
    if "predicted" not in result:
        return [f"{peak / 2**20:,.0f}", "", ""]
    predicted = result["predicted"]["peak"]
    return [f"{peak / 2**20:,.0f}", f"{predicted / 2**20:,.0f}", f"{peak / predicted:.2f}"]


def median(result: Result, kind: str) -> float:
    """The median of the turns."""
    return statistics.median(result[kind])


def verdict(result: Result, batch: int) -> str:
    """Says how the hypotheses compare with the reference's."""
    if "differing" not in result:
        return ""
    short = result["score_gap"]
    if short is None:
        return "others"
    if result["differing"]:
        return f"{result['differing']} of {batch} sentences differ; scores within {short:.0e}"
    return f"equal; scores within {short:.0e}" if short else "equal"


def draw(document: Result, folder: Path) -> list[Path]:
    """Draws the speed of a decoder step by batch, a PNG for each model; none without matplotlib."""
    if not plots.is_possible():
        return []
    written = []
    for name in dict.fromkeys(case["settings"]["model"] for case in document["cases"]):
        cases = [case for case in document["cases"] if case["settings"]["model"] == name]
        systems = list(cases[0]["systems"])
        base = next((name for name in RIVALS if name in systems), systems[0])

        def speed(case: Result, seconds: float, base: str = base) -> tuple[float, float]:
            return case["settings"]["batch"], median(case["systems"][base], "step") / seconds

        series = {
            system: [speed(case, median(case["systems"][system], "step")) for case in cases]
            for system in systems
        }
        series[FLOOR] = [speed(case, case["floor"]["step"]) for case in cases]
        heading = f"Decoder steps per second: {title(cases[0]['settings'])}"
        picture = plots.lines(series, "batch, sentences", f"times {base}", heading, "")
        path = folder / f"{name}.png"
        path.write_bytes(picture)
        written.append(path)
    return written
