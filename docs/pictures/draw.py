#!/usr/bin/env python3
"""Draws the pictures of the documentation as SVG, beside this file.

    python docs/pictures/draw.py           # draw them again
    python docs/pictures/draw.py --check   # fail if a file is not what would be drawn

Every picture has a light panel of its own, so that it is readable on light and dark pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
INK, MUTED, LINE, PANEL = "#1f2430", "#5b6472", "#9aa4b2", "#f7f8fb"
BEAMS = ("#2f6fdb", "#d1602f", "#2e9b62")  # one colour for each beam
DEAD = "#d6dae1"


@dataclass
class Picture:
    """An SVG in the making."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, w: float, h: float, fill: str, line: str = LINE) -> None:
        """Adds a box with round corners."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="{fill}" '
            f'stroke="{line}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 14,
        fill: str = INK,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """Adds a line of text around, before or behind a point."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def line(
        self, x: float, y: float, to_x: float, to_y: float, colour: str = LINE, arrow: bool = False
    ) -> None:
        """Adds a line, with a head if it is an arrow."""
        head = ' marker-end="url(#head)"' if arrow else ""
        self.parts.append(
            f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{colour}" '
            f'stroke-width="2"{head}/>'
        )

    def svg(self) -> str:
        """Returns the file."""
        w, h = self.width, self.height
        size = f'width="{w}" height="{h}" viewBox="0 0 {w} {h}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
                f'font-family="Helvetica, Arial, sans-serif">',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
                f'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="{MUTED}"/></marker>'
                "</defs>",
                f'<rect width="{w}" height="{h}" rx="12" fill="{PANEL}"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )


# Of each step, the parent beam and the token of every beam.
SEARCH = (
    ((0, "The"), (0, "A"), (0, "One")),
    ((0, "cat"), (0, "dog"), (1, "cat")),
    ((0, "sat"), (0, "ran"), (1, "sat")),
    ((0, "on"), (0, "down"), (2, "up")),
)


def rows_of_search() -> tuple[list[list[int]], list[set[int]]]:
    """Returns the row of every beam at every step, and the rows that each beam sees at last."""
    seen: list[set[int]] = [set() for _ in BEAMS]
    rows = []
    for step in SEARCH:
        seen = [set(seen[parent]) for parent, _ in step]
        taken = set().union(*seen)
        rows.append([row for row in range(len(BEAMS) * len(SEARCH)) if row not in taken][:3])
        for beam, row in enumerate(rows[-1]):
            seen[beam].add(row)
    return rows, seen


def survivors() -> list[set[int]]:
    """Returns, of every step, the beams that have a descendant among the last beams."""
    alive = [{0, 1, 2}]
    for step in reversed(SEARCH[1:]):
        alive.insert(0, {step[beam][0] for beam in alive[0]})
    return alive


def tree() -> Picture:
    """Three beams, four steps: rows, ancestors, and the bits that say who sees what."""
    picture = Picture(880, 560, "A tree of states: rows are shared by beams and used again")
    picture.text(30, 36, "Rows, in the order of steps", 17, anchor="start", bold=True)
    rows, seen = rows_of_search()
    alive = survivors()
    for number, step in enumerate(SEARCH):
        x = 40 + 210 * number
        picture.text(x + 60, 66, f"step {number + 1}", 13, MUTED)
        for beam, (parent, token) in enumerate(step):
            y = 82 + 62 * beam
            if number:
                picture.line(x - 90, 82 + 62 * parent + 21, x, y + 21)
            lives, last = beam in alive[number], number + 1 == len(SEARCH)
            fill = BEAMS[beam] if last else "#cfd9ec" if lives else DEAD
            ink = "#ffffff" if last else INK if lives else MUTED
            picture.box(x, y, 120, 42, fill)
            picture.text(x + 12, y + 26, token, 15, ink, "start", bold=True)
            picture.text(x + 110, y + 26, f"row {rows[number][beam]}", 12, ink, "end")
    written = [row for step in rows for row in step]
    again = ", ".join(str(row) for row in sorted(set(written)) if written.count(row) > 1)
    note = f"Grey: no beam goes on from here. Such rows are free; {again} were used again."
    picture.text(30, 290, note, 13, MUTED, "start")
    picture.text(30, 334, "visible, after step 4", 17, anchor="start", bold=True)
    used = 1 + max(row for step in rows for row in step)
    for row in range(used):
        picture.text(161 + 46 * row, 362, str(row), 12, MUTED)
    for beam in range(len(BEAMS)):
        y = 372 + 44 * beam
        picture.text(126, y + 24, f"beam {beam}", 14, BEAMS[beam], "end", bold=True)
        for row in range(used):
            fill = BEAMS[beam] if row in seen[beam] else "#ffffff"
            picture.box(142 + 46 * row, y, 38, 36, fill)
    notes = (
        "A beam sees its ancestors' rows.",
        "Reordering the beams",
        "reorders these bits,",
        "once a step for all layers.",
        "No state moves.",
    )
    for index, note in enumerate(notes):
        bold = index + 1 == len(notes)
        picture.text(610, 392 + 24 * index, note, 14, INK, "start", bold)
    note = "Stock fairseq copies keys and values of all beams and layers at every step instead."
    picture.text(30, 538, note, 13, MUTED, "start")
    return picture


def plans() -> Picture:
    """Both plans, from the state to the output of a head, with what each keeps."""
    picture = Picture(880, 500, "Two exact plans over the same rows")
    columns = (
        (
            "expanded-query (EL-attention)",
            "kept: the state h, once for all heads",
            [
                ("query q of a head", "head_dim numbers"),
                ("expanded query e = q Wk", "C numbers"),
                ("scores e · h", "all beams and heads against one matrix of rows"),
                ("context c = Σ p h", "C numbers"),
                ("head = c Wv + bv", "head_dim numbers"),
            ],
            "C per row: for an encoder output, once for all layers",
            "more arithmetic: H x head_dim becomes H x C per row",
        ),
        (
            "shared-projection",
            "kept: key and value of every head, once for all beams",
            [
                ("query q of a head", "head_dim numbers"),
                ("key k = h Wk + bk", "projected once, when the row is written"),
                ("scores q · k", "the beams of a head against its keys"),
                ("value v = h Wv + bv", "projected once, when the row is written"),
                ("head = Σ p v", "head_dim numbers"),
            ],
            "2 C per row and layer",
            "less arithmetic: right where it is dearer than memory",
        ),
    )
    for index, (name, kept, rows, memory, price) in enumerate(columns):
        x = 30 + 420 * index
        colour = BEAMS[index]
        picture.text(x + 200, 38, name, 18, colour, bold=True)
        picture.text(x + 200, 64, kept, 14, INK)
        for number, (formula, note) in enumerate(rows):
            y = 84 + 68 * number
            moved = number in ((1, 4) if index == 0 else (1, 3))
            picture.box(x + 20, y, 360, 48, "#e4ecfb" if moved and index == 0 else "#ffffff")
            if moved and index == 1:
                picture.box(x + 20, y, 360, 48, "#fbe9e1")
            picture.text(x + 200, y + 21, formula, 15, INK, bold=True)
            picture.text(x + 200, y + 39, note, 12, MUTED)
            if number + 1 < len(rows):
                picture.line(x + 200, y + 50, x + 200, y + 66, MUTED, arrow=True)
        picture.text(x + 200, 440, memory, 14, INK)
        picture.text(x + 200, 462, price, 13, MUTED)
    picture.text(440, 487, "Coloured: where the projections Wk and Wv are applied.", 12, MUTED)
    return picture


PICTURES: dict[str, Callable[[], Picture]] = {"tree.svg": tree, "plans.svg": plans}


def main() -> None:
    """Draws, or compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="draw nothing; fail if files differ")
    options = parser.parse_args()
    for name, draw in PICTURES.items():
        drawn, path = draw().svg(), FOLDER / name
        if not options.check:
            path.write_text(drawn)
        elif not path.exists() or path.read_text() != drawn:
            sys.exit(f"{path}: not what {Path(__file__).name} draws; run it without --check")


if __name__ == "__main__":
    main()
