"""What the site takes from the repository when it is built, so that no text lies in it twice.

A page whose front matter says `source: PATH` is that file of the repository.  Links lead to the
page that shows their target, or become plain text where none does.  The reference of the command
line is written from the parsers.
"""

from __future__ import annotations

import argparse
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

from el_attention import cli
from el_attention.fairseq_plugin.options import with_options

ROOT = Path(__file__).resolve().parents[1]
SOURCE = re.compile(r"\A---\nsource: (\S+)\n---\n")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
COMMANDS = "<!-- commands -->"

logging.getLogger().handlers.clear()  # fairseq's, which would print what mkdocs prints, and more


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Returns the text of a page.

    Raises:
        PluginError: if its source, or the target of a link in it, is not there.
    """
    source, shown = page.meta.get("source"), pages_of(files)
    if source is None:
        source = f"docs/{page.file.src_uri}"
        markdown = markdown.replace(COMMANDS, "\n".join(commands()))
    elif (ROOT / source).is_file():
        markdown = (ROOT / source).read_text()
    else:
        raise PluginError(f"{page.file.src_uri}: expected the file {source}, there is none")
    return LINK.sub(lambda link: linked(link, source, page.file.src_uri, shown), markdown)


def pages_of(files: Any) -> dict[str, str]:
    """Returns the page of each file of the repository that the site shows."""
    shown = {f"docs/{file.src_uri}": file.src_uri for file in files}
    for file in files.documentation_pages():
        found = SOURCE.match(file.content_string)
        if found:
            shown[found[1]] = file.src_uri
    return shown


def linked(link: re.Match[str], source: str, page: str, pages: Mapping[str, str]) -> str:
    """Returns a link of `source`, as it has to be in `page`.

    Raises:
        PluginError: if there is no file at its target.
    """
    picture, text, target, anchor = link.groups()
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / path).exists():
        raise PluginError(f"{source}: expected a file for the link to {target}, there is none")
    shown = pages.get(path) or pages.get(posixpath.join(path, "README.md"))
    if shown is None:
        plain = text.strip("`")
        return f"`{path}`" if plain in path else f"{text} (`{path}`)"
    place = posixpath.relpath(shown, posixpath.dirname(page) or ".")
    return f"{picture}[{text}]({place}{anchor or ''})"


def commands() -> Iterator[str]:
    """Yields the reference of all options, in Markdown."""
    parser = cli.parser()
    yield from ("## `el-attention`", "", parser.description or "", "")
    yield from options(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield from (f"### `el-attention {name}`", "", f"{sentence(helps[name])}", "")
                yield from options(command)
    yield from ("## Options of the `el_` tasks", "")
    yield "For `fairseq-generate`, `fairseq-interactive` and `fairseq-train`, beside fairseq's own:"
    yield ""
    task = argparse.ArgumentParser(add_help=False)
    with_options(lambda parser: None)(task)
    yield from options(task)


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields a table of the options of a parser."""
    rows = []
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        name = ", ".join(action.option_strings) or action.dest
        values = "" if action.nargs == 0 else " " + (action.metavar or action.dest.upper())  # type: ignore[operator]
        if action.choices:
            values = " " + "{" + ",".join(map(str, action.choices)) + "}"
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        default = (
            "" if action.default in (None, False, argparse.SUPPRESS) else f"`{action.default}`"
        )
        meaning = re.sub(r"; default: [^;]*$", "", text) if default else text
        cells = [f"`{name}{values}`", meaning, default]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    if rows:
        yield from ("| option | meaning | default |", "|---|---|---|")
        yield from rows
        yield ""


def sentence(text: str | None) -> str:
    """Returns a help text as a sentence."""
    return f"{text[0].upper()}{text[1:]}." if text else ""
