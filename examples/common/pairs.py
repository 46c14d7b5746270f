"""Data sets of (source, target) pairs, as text files with one of them a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from common.acquire import DataError, Policy, check_counts
from common.lines import one_line, read_lines

SPLITS = ("train", "valid", "test")
SIDES = ("source", "target")

# What BART's fine-tuning instructions call the splits.
BART_NAMES = {"train": "train", "valid": "val", "test": "test"}


class Pair(NamedTuple):
    """A document and its summary, or a passage and a question about it."""

    source: str
    target: str


def write_pairs(
    pairs: Iterable[tuple[str, Pair]], folder: Path, expected: Mapping[str, int], policy: Policy
) -> dict[str, int]:
    """Write {train,valid,test}.{source,target}, one line each, without pairs that lack a side.

    Args:
        pairs: (split, pair).
        folder: to write to; the files exist only when they are complete and verified.
        expected: the published number of pairs in each split.
        policy: whether other numbers are accepted.

    Returns:
        The number of pairs in each split.

    Raises:
        DataError: if the numbers are not the expected ones, or a split is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{split}.{side}" for split in SPLITS for side in SIDES]
    counts = dict.fromkeys(SPLITS, 0)
    incomplete = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.part").open("wb")) for name in names}
        for split, pair in pairs:
            sides = [one_line(text) for text in pair]
            if not all(sides):
                incomplete += 1
                continue
            counts[split] += 1
            for side, text in zip(SIDES, sides, strict=True):
                files[f"{split}.{side}"].write(text.encode("utf-8", "replace") + b"\n")
    print(f"pairs: {counts}; left out for lack of a source or a target: {incomplete}")
    if not all(counts.values()):
        raise DataError(f"a split is empty: {counts}")
    check_counts(counts, expected, policy)
    for name in names:
        (folder / f"{name}.part").rename(folder / name)
    return counts


def prepared_pairs(folder: Path) -> Iterator[tuple[str, Pair]] | None:
    """The (split, pair) items of {train,val,test}.{source,target}; None without those files."""
    paths = {
        split: [folder / f"{name}.{side}" for side in SIDES] for split, name in BART_NAMES.items()
    }
    if not all(path.exists() for sides in paths.values() for path in sides):
        return None
    return _read_pairs(paths)


def _read_pairs(paths: Mapping[str, list[Path]]) -> Iterator[tuple[str, Pair]]:
    for split, sides in paths.items():
        sources, targets = map(read_lines, sides)
        if len(sources) != len(targets):
            counts = ", ".join(
                f"{len(lines)} lines in {path}"
                for path, lines in zip(sides, (sources, targets), strict=True)
            )
            raise DataError(f"source and target differ in length: {counts}")
        for source, target in zip(sources, targets, strict=True):
            yield split, Pair(source, target)
