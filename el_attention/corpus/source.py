"""The rows of a corpus, one after another: lines of text, JSON lines, Parquet, a data set."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIX = ".parquet"
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_BYTE_ORDER_MARK = "\ufeff"  # which some systems write before the first line

_LARGEST_ID = 2**63 - 1
_AT_ONCE = 1024  # rows that are taken out of Parquet together
_SHOWN = 3  # ids in an error


class Row(NamedTuple):
    """A row of a corpus.

    Attributes:
        place: among all rows, from 0.
        id: what its column holds or, without one, the number of the row, from 1, of a sentence of a
            data set from 0; None if there is none.
        text: what is in the column of texts, or the number of a sentence of a data set.
        reason: why the row cannot be used, or None; it names the row if there is no id.
    """

    place: int
    id: str | int | None
    text: object
    reason: str | None = None


# Size in bytes, and time of the last change in nanoseconds, of each file.
Stamps = tuple[tuple[int, int], ...]


class Contents(NamedTuple):
    """What is known of a corpus before anything is generated.

    Attributes:
        rows: their number; None where the model's framework has to say it.
        digest: a digest of the files.
        stamps: the size and time of the last change of each file, before it was read.
        whole_ids: whether all ids are whole numbers.
    """

    rows: int | None
    digest: str
    stamps: Stamps
    whole_ids: bool


@dataclass(frozen=True)
class Source:
    """A file of rows, or a folder of fairseq's data sets.

    Attributes:
        path: what ends in .jsonl, .ndjson or .json holds an object in each line, what ends in
            .parquet is that, and every other file holds a text in each line.
        text_column: the name of the column of texts.
        id_column: the name of the column of ids, text or whole numbers; None to number the rows.
        split: which data set of a folder.
    """

    path: Path
    text_column: str = "text"
    id_column: str | None = None
    split: str = "test"

    @property
    def is_data_set(self) -> bool:
        """Whether the rows are sentences of a data set, which the model's framework reads."""
        return self.path.is_dir()

    def rows(self, number: int | None = None) -> Iterator[Row]:
        """Yields the rows.

        Args:
            number: how many, at most; None for all. Of a data set it must be given.

        Raises:
            ImportError: if Parquet is to be read, and pyarrow is not there.
            OSError: if the file cannot be read.
            ValueError: if it is no Parquet, has no such columns, or is compressed.
        """
        return islice(self._rows(number), number)

    def _rows(self, number: int | None) -> Iterator[Row]:
        suffix = self.path.suffix.lower()
        if self.is_data_set:
            if number is None:
                raise ValueError(f"corpus {self.path}: expected a file of texts, got a folder")
            return (Row(place, place, place) for place in range(number))
        if suffix in _COMPRESSED:
            raise ValueError(f"corpus {self.path}: expected a file that is not compressed")
        if suffix == PARQUET_SUFFIX:
            return self._of_parquet(parquet_library())
        if suffix in JSON_SUFFIXES:
            return self._of_json()
        if self.id_column is not None:
            raise ValueError(
                f"corpus {self.path}: expected JSON lines or Parquet for the column of ids "
                f"{self.id_column!r}; a file of texts has none"
            )
        return self._of_text()

    def contents(self) -> Contents:
        """Reads all rows once.

        Raises:
            ImportError: if Parquet is to be read, and pyarrow is not there.
            OSError: if the file cannot be read, or only once, as a pipe.
            ValueError: if an id repeats, no row has a text, or there is no such data set.
        """
        if self.is_data_set:
            stamps = self.stamps()
            return Contents(None, _digest(self._files()), stamps, True)
        rows, stamps = self.rows(), self.stamps()
        number, texts, whole = 0, 0, True
        first_reason: str | None = None
        seen: set[str] = set()
        repeated: dict[str, None] = {}
        for row in rows:
            number += 1
            texts += isinstance(row.text, str)
            first_reason = first_reason or row.reason or _no_text(row, self.text_column)
            if self.id_column is None or row.id is None:
                continue
            whole = whole and isinstance(row.id, int)
            name = str(row.id)
            if name in seen:
                repeated[name] = None
            seen.add(name)
        if repeated:
            raise ValueError(
                f"corpus {self.path}: expected each id once, column {self.id_column!r} repeats "
                f"{shown(list(repeated))}"
            )
        if number and not texts:
            raise ValueError(f"corpus {self.path}: no row has a text; the first: {first_reason}")
        return Contents(number, _digest([self.path]), stamps, whole)

    def stamps(self) -> Stamps:
        """Returns what another change of the files would change.

        Raises:
            OSError: if they are not there, or can be read only once, as a pipe.
            ValueError: if there is no such data set.
        """
        stats = [path.stat() for path in self._files()]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)

    def _files(self) -> list[Path]:
        """Returns the file, or those of the data set.

        Raises:
            OSError: if it can be read only once, as a pipe.
            ValueError: if there is no such data set.
        """
        if not self.is_data_set:
            if self.path.exists() and not self.path.is_file():
                raise OSError(f"corpus {self.path}: expected a file, which can be read again")
            return [self.path]
        if self.id_column is not None:
            raise ValueError(
                f"corpus {self.path}: expected a file for the column of ids {self.id_column!r}; a "
                "folder is a data set of fairseq, which has none"
            )
        files = sorted(path for path in self.path.glob("*.*") if path.is_file())
        found = [path for path in files if path.name.partition(".")[0] == self.split]
        if not found:
            raise ValueError(
                f"corpus {self.path}: expected a file, or a folder with a data set of fairseq of "
                f"files {self.split}.*, there are {[path.name for path in files[:_SHOWN]]}"
            )
        return found

    def _of_text(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            for place, line in enumerate(file):
                text = _decoded(place, line)
                if text is None:
                    yield Row(place, place + 1, None, f"row {place + 1} is not UTF-8")
                else:
                    yield Row(place, place + 1, text)

    def _of_json(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            for place, line in enumerate(file):
                yield self._row(place, _parsed(place, line))

    def _of_parquet(self, parquet: Any) -> Iterator[Row]:
        arrow = importlib.import_module("pyarrow")
        columns = [self.text_column, *([self.id_column] if self.id_column else [])]
        try:
            with parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                for name in columns:
                    if name not in names:
                        raise ValueError(f"expected a column {name!r}, there are {names}")
                place = 0
                for batch in file.iter_batches(batch_size=_AT_ONCE, columns=columns):
                    for values in _values(batch):
                        yield self._row(place, values)
                        place += 1
        except (ValueError, arrow.ArrowException) as error:
            raise ValueError(f"corpus {self.path}: {error}") from error

    def _row(self, place: int, values: dict[str, Any] | str) -> Row:
        """Returns a row of its columns or, if they are text, of the reason why there are none."""
        where = f"row {place + 1}"
        number = place + 1 if self.id_column is None else None
        if isinstance(values, str):
            return Row(place, number, None, f"{where} {values}")
        text = values.get(self.text_column)
        if self.id_column is not None:
            found = values.get(self.id_column)
            wrong = _wrong_id(found)
            if wrong is not None:
                reason = f"{where}: expected an id in column {self.id_column!r}, got {wrong}"
                return Row(place, None, text, reason)
            number = found
        if self.text_column not in values:
            reason = f"{where}: expected a column {self.text_column!r}, there are {[*values]}"
            return Row(place, number, None, reason)
        return Row(place, number, text)


def parquet_library() -> Any:
    """Returns pyarrow.parquet.

    Raises:
        ImportError: if it is not there; says how to install it.
    """
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            f"Parquet needs pyarrow ({error}): pip install 'pyarrow<26', or use JSON lines"
        ) from error


def shown(names: list[str]) -> str:
    """Names the first of some ids, and says how many more there are."""
    text = ", ".join(repr(name) for name in names[:_SHOWN])
    return text + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _no_text(row: Row, column: str) -> str | None:
    if isinstance(row.text, str):
        return None
    return f"row {row.place + 1}: column {column!r} holds a {type(row.text).__name__}"


def _decoded(place: int, line: bytes) -> str | None:
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return None
    return text if place else text.removeprefix(_BYTE_ORDER_MARK)


def _parsed(place: int, line: bytes) -> dict[str, Any] | str:
    text = _decoded(place, line)
    if text is None:
        return "is not UTF-8"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    if not isinstance(values, dict):
        return f"is no object of JSON: {type(values).__name__}"
    return values


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yields the columns of each row of Parquet, or what is wrong with it."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:  # before the first of them
        pass
    for row in range(batch.num_rows):
        try:
            yield from batch.slice(row, 1).to_pylist()
        except UnicodeDecodeError:
            yield "is not UTF-8"


def _wrong_id(value: object) -> str | None:
    """Says what a value is that cannot be an id, or None if it can."""
    if type(value) is int:
        return None if -_LARGEST_ID - 1 <= value <= _LARGEST_ID else "a number beyond 64 bits"
    if not isinstance(value, str):
        return type(value).__name__
    try:
        value.encode()
    except UnicodeEncodeError:
        return "half a character"
    return None


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        if len(paths) > 1:
            total.update(f"{path.name} {path.stat().st_size} ".encode())
        with open(path, "rb") as file:
            while block := file.read(2**20):
                total.update(block)
    return total.hexdigest()
