"""Plots of the batch-size table, as PNG."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REMEDY = "matplotlib is not installed; pip install matplotlib, or this project with [report]"

# After Okabe and Ito, to be told apart by all readers: of lines, and of parts of a bar.
LINES = ("#6e7781", "#d55e00", "#e69f00", "#0072b2", "#009e73")
PARTS = ("#afb8c1", "#56b4e9", "#0072b2", "#8c959f", "#f0e442", "#d55e00", "#cc79a7")
MARKERS = "xsDo^"
INK, GRID = "#24292f", "#d8dee4"


def is_possible() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, title: str, end: str
) -> bytes:
    """Lines over a logarithmic x.

    Args:
        series: points by name.
        x: name of the axis.
        y: name of the axis.
        title: the title of the plot.
        end: stands at lines that end before others do.
    """
    figure, axes = _axes(title)
    ticks = sorted({point[0] for points in series.values() for point in points})
    for (name, points), colour, marker in zip(series.items(), LINES, MARKERS, strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, linewidth=2, markersize=6, label=name)
        if xs[-1] < ticks[-1]:
            place: dict[str, Any] = {
                "textcoords": "offset points",
                "xytext": (8, 0),
                "va": "center",
            }
            axes.annotate(end, (xs[-1], ys[-1]), color=colour, fontsize=9, **place)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return _png(figure)


def bars(parts: Mapping[str, Mapping[str, float]], unit: str, scale: float, title: str) -> bytes:
    """A stacked horizontal bar per name.

    Args:
        parts: sizes by name and part; all names have the same parts.
        unit: the unit of the printed sizes.
        scale: printed over given sizes.
        title: the title of the plot.
    """
    figure, axes = _axes(title)
    names = list(parts)
    kinds = list(dict.fromkeys(kind for sizes in parts.values() for kind in sizes))
    left = [0.0] * len(names)
    for kind, colour in zip(kinds, PARTS, strict=False):
        widths = [scale * parts[name].get(kind, 0.0) for name in names]
        axes.barh(
            names, widths, left=left, color=colour, label=kind, height=0.62, edgecolor="white"
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for number, total in enumerate(left):
        axes.annotate(
            f"{total:,.0f}", (total, number), (4, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(right=1.1 * max(left))
    axes.set_xlabel(unit)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return _png(figure)


def _axes(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
