"""Text files with one sentence a line, as fairseq sees lines: only a line feed ends one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """The lines of a file. Does not split at U+2028, carriage returns and their like."""
    text = path.read_bytes().decode("utf-8")
    return text.removesuffix("\n").split("\n") if text else []


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines that hold no line feed; lone surrogates become "?"."""
    with path.open("wb") as file:
        for line in lines:
            file.write(line.encode("utf-8", "replace") + b"\n")


def one_line(text: str) -> str:
    """`text` with every run of white space, line ends included, as one space."""
    return " ".join(text.split())
