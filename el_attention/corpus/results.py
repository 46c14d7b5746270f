"""Files of results: JSON lines or Parquet, whole or not there at all."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import IO, Any, NamedTuple

from el_attention.corpus.source import JSON_SUFFIXES, PARQUET_SUFFIX, parquet_library
from el_attention.robust.journal import sync_folder

# The types of a result's fields.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": (str, int, NoneType),
    "hypotheses": list,
    "scores": (list, NoneType),
    "reason": (str, NoneType),
}
_AT_ONCE = 1024  # rows of Parquet that are written together


class Result(NamedTuple):
    """What a file of results holds for a row.

    Attributes:
        id: the row's id; None if it has none.
        hypotheses: text of each, the best first; empty if nothing was generated.
        scores: the scores of each hypothesis, or None; in lines of JSON, null for what is no number
            there, as the score of a hypothesis that cannot be.
        reason: why nothing was generated, or None.
    """

    id: str | int | None
    hypotheses: list[str]
    scores: list[float | None] | None
    reason: str | None


def check_output(path: Path) -> None:
    """Says whether results can be written to a file of this name.

    Raises:
        ImportError: if it is to be Parquet, and pyarrow is not there.
        OSError: if its folder is not there.
        ValueError: if its name does not say what it is to be.
    """
    if path.suffix.lower() == PARQUET_SUFFIX:
        parquet_library()
    elif path.suffix.lower() not in JSON_SUFFIXES:
        raise ValueError(f"output {path}: expected a name that ends in .jsonl or .parquet")
    if not path.absolute().parent.is_dir():
        raise OSError(f"output {path}: expected its folder to be there")


def write(path: Path, results: Iterable[Result], whole_ids: bool) -> int:
    """Writes a file of results; it is there at once, when all of it is on disk.

    Args:
        path: the path of the file; another of that name is replaced.
        results: the results in order.
        whole_ids: whether all ids are whole numbers, for Parquet.

    Returns:
        The number of results.

    Raises:
        OSError: if it cannot be written; then a file of that name is what it was.
    """
    beside = path.with_name(f"{path.name}.writing")
    try:
        with open(beside, "wb") as file:
            if path.suffix.lower() == PARQUET_SUFFIX:
                number = _write_parquet(file, results, whole_ids)
            else:
                number = _write_json(file, results)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        # An error that says more, as that of a journal, comes from where the results do.
        if isinstance(error, OSError) and error.strerror == os.strerror(error.errno or 0):
            raise OSError(
                error.errno, f"output {path}: cannot be written ({error.strerror})"
            ) from error
        raise
    sync_folder(path.absolute().parent)
    return number


def read(path: Path) -> Iterator[Result]:
    """Yields the results in a file.

    Raises:
        ImportError: if it is Parquet, and pyarrow is not there.
        OSError: if it cannot be read.
        ValueError: if there is something else in it.
    """
    if path.suffix.lower() == PARQUET_SUFFIX:
        parquet = parquet_library()
        arrow = importlib.import_module("pyarrow")
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_AT_ONCE):
                    yield from (_result(values) for values in batch.to_pylist())
        except (TypeError, UnicodeDecodeError, arrow.ArrowException) as error:
            raise ValueError(f"{path}: expected results: {error}") from error
        return
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _result(json.loads(line))
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number}: expected a result: {error}") from error


def _result(values: dict[str, Any]) -> Result:
    """Returns a result of its fields.

    Raises:
        TypeError: if it has others, or of other types.
    """
    result = Result(**values)
    for name, kinds in _TYPES.items():
        found = getattr(result, name)
        if not isinstance(found, kinds) or isinstance(found, bool):
            raise TypeError(f"{name}: got {type(found).__name__}")
    return result


def _write_json(file: IO[bytes], results: Iterable[Result]) -> int:
    number = 0
    for result in results:
        scores = result.scores and [*map(_finite, result.scores)]
        line = json.dumps(result._replace(scores=scores)._asdict(), allow_nan=False)
        file.write(line.encode() + b"\n")
        number += 1
    return number


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _write_parquet(file: IO[bytes], results: Iterable[Result], whole_ids: bool) -> int:
    arrow, parquet = importlib.import_module("pyarrow"), parquet_library()
    schema = arrow.schema(
        [
            ("id", arrow.int64() if whole_ids else arrow.string()),
            ("hypotheses", arrow.list_(arrow.string())),
            ("scores", arrow.list_(arrow.float64())),
            ("reason", arrow.string()),
        ]
    )
    number = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for some in _some(results):
            if not whole_ids:
                some = [_with_text_as_id(result) for result in some]
            rows = [result._asdict() for result in some]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            number += len(rows)
    return number


def _with_text_as_id(result: Result) -> Result:
    return result if result.id is None else result._replace(id=str(result.id))


def _some(results: Iterable[Result]) -> Iterator[list[Result]]:
    some: list[Result] = []
    for result in results:
        some.append(result)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some
