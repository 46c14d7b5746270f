"""One HTML page of all tables and plots, which needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from research.tables.report import Section

STYLE = """
:root { --ink: #24292f; --soft: #57606a; --line: #d8dee4; --tint: #f6f8fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; }
p { max-width: 52rem; margin: .35rem 0; color: var(--soft); }
nav { margin: 1.25rem 0 0; display: flex; flex-wrap: wrap; gap: .4rem 1.25rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .8125rem; white-space: nowrap; }
th { text-align: left; background: var(--tint); font-weight: 600; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
tbody tr.first td { border-top: 2px solid var(--line); }
tbody tr.el { background: #f2f8fc; }
.figure { text-align: right; font-variant-numeric: tabular-nums; }
.out { color: #a0471a; }
img { display: block; width: 100%; max-width: 60rem; height: auto; margin: 1.5rem 0 0; }
"""


def html(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: the title of the page.
        lines: paragraphs below it.
        sections: tables, in order.
    """
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    body = "".join(_section(number, section) for number, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{paragraphs}<nav>{links}</nav>{body}</main></body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    header = "".join(
        f"<th{_kind(column, section)}>{escape(name)}</th>"
        for column, name in enumerate(section.header)
    )
    images = "".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        for name, image in section.images.items()
    )
    return (
        f'<h2 id="s{number}">{escape(section.title)}</h2><p>{escape(section.note)}</p>'
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{_rows(section)}</tbody></table></div>{images}"
    )


def _rows(section: Section) -> str:
    """Rows; a rule where a new group begins, a tint where the attention is EL."""
    rows, before = [], None
    for row in section.rows:
        group = row[: max(1, section.names - 1)]
        classes = ["first"] if before not in (None, group) else []
        classes += ["el"] if any(cell.startswith("EL") for cell in row) else []
        before = group
        cells = "".join(
            f"<td{_kind(column, section, text)}>{escape(text)}</td>"
            for column, text in enumerate(row)
        )
        rows.append(f'<tr class="{" ".join(classes)}">{cells}</tr>')
    return "".join(rows)


def _kind(column: int, section: Section, text: str = "") -> str:
    classes = ["figure"] if column >= section.names else []
    classes += ["out"] if text in ("out of memory", "failed") else []
    return f' class="{" ".join(classes)}"' if classes else ""
