"""The outputs of all shards of a corpus, made one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from el_attention.corpus.results import Result, check_output, read, write
from el_attention.corpus.source import Row, Source, shown
from el_attention.corpus.store import SETTINGS, folder_of
from el_attention.robust.journal import differences, settings_of


def merge(corpus: Path, shards: Sequence[Path], output: Path) -> int:
    """Writes the results of all shards of a corpus to one file, in the order of the rows.

    Args:
        corpus: file of the rows, as it was when the shards were generated.
        shards: outputs of the shards, in any order, each with its folder beside it.
        output: file that is written; it is not there yet.

    Returns:
        The number of rows.

    Raises:
        ImportError: if Parquet is to be read or written, and pyarrow is not there.
        OSError: if a file cannot be read or written.
        ValueError: if the shards are not all shards of one run over this corpus, or a row is
            missing or repeated; names it.
    """
    check_output(output)
    if output.exists():
        raise ValueError(f"output {output}: it exists; give another name, or delete it")
    settings = _common_settings(shards)
    column = settings["column of ids"]
    source = Source(
        corpus,
        settings["column of texts"],
        None if column == "None" else column,
        settings["data set"],
    )
    contents = source.contents()
    if contents.digest != settings["rows"]:
        raise ValueError(f"corpus {corpus}: is not the one that the shards were generated for")
    number = int(settings["number of rows"])
    _check_rows(source.rows(number), shards)
    return write(output, _in_order(source.rows(number), shards), contents.whole_ids)


def _common_settings(shards: Sequence[Path]) -> dict[str, str]:
    """Returns the settings of all shards.

    Raises:
        OSError: if a shard is not finished, or its settings cannot be read.
        ValueError: if they are not all shards of one run.
    """
    first: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for path in shards:
        if not path.exists():
            raise OSError(f"shard {path}: expected a file; is its run finished?")
        settings = settings_of(folder_of(path) / SETTINGS)
        number = settings.pop("shard")
        if number in paths:
            raise ValueError(f"shard {number} is there twice: {paths[number]} and {path}")
        paths[number] = path
        different = differences(first or settings, settings)
        if different:
            raise ValueError(f"shards {shards[0]} and {path} are of different runs: {different}")
        first = settings
    total = {int(number.partition("/")[2]) for number in paths}
    if len(total) > 1:
        raise ValueError(f"expected shards of one number of shards, got {', '.join(paths)}")
    of = total.pop()
    missing = [f"{k}/{of}" for k in range(1, of + 1) if f"{k}/{of}" not in paths]
    if missing:
        raise ValueError(f"expected all shards, missing are {shown(missing)}")
    return first


def _check_rows(rows: Iterator[Row], shards: Sequence[Path]) -> None:
    """Finds out whether each row has one result.

    Raises:
        ValueError: if it has none or several, or there is a result of no row; names the rows.
    """
    found: set[str] = set()
    repeated = []
    for path in shards:
        for result in read(path):
            key = _key(result)
            if key in found:
                repeated.append(key)
            found.add(key)
    missing = []
    for row in rows:
        key = _key(row)
        if key in found:
            found.remove(key)
        else:
            missing.append(key)
    for keys, what in (
        (repeated, "are in several shards or places"),
        (missing, "are in no shard"),
        (sorted(found), "are not of this corpus"),
    ):
        if keys:
            raise ValueError(f"expected each row once: {shown(keys)} {what}")


def _in_order(rows: Iterator[Row], shards: Sequence[Path]) -> Iterator[Result]:
    """Yields the results of shards in the order of the rows.

    Raises:
        ValueError: if those of a shard are in another order.
    """
    heads: dict[str, tuple[Result, Iterator[Result]]] = {}
    for path in shards:
        _advance(heads, read(path))
    for row in rows:
        head = heads.pop(_key(row), None)
        if head is None:
            raise ValueError(f"row {_key(row)!r}: a shard is not in the order of the corpus")
        result, rest = head
        yield result
        _advance(heads, rest)


def _advance(heads: dict[str, tuple[Result, Iterator[Result]]], results: Iterator[Result]) -> None:
    result = next(results, None)
    if result is not None:
        heads[_key(result)] = result, results


def _key(row: Row | Result) -> str:
    """What tells a row from all others: its id or, without one, the reason, which names it."""
    return f"without id: {row.reason}" if row.id is None else str(row.id)
