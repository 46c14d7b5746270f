"""A file of finished work that survives the death of its process: lines, on disk at once.

The first line holds the settings of the run.  Every other line is a record: entries that were
finished together, key and value of each, and what else was to be kept of that moment.  Each line
holds a checksum of its text; that of a record depends on the first line, too.  A last line without
an end was being written when the process died, and is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

# A file that does not begin so is not this module's to write. The number is that of the format.
MAGIC = b"el_attention-journal 2 "

_SHOWN = 3  # settings that differ, in an error
_WIDTH = 120  # characters of a setting, in an error


class Entry(NamedTuple):
    """What was recorded (JSON).

    Attributes:
        value: the value of the entry.
        moment: what was kept of the moment at which its record was finished, or None.
        line: number of its record in the file, from 1.
    """

    value: Any
    moment: Any
    line: int


class Journal:
    """Entries of earlier runs, to be taken out, and of this run, to be added.

    The file is open once, in one process: a copy of a journal is the same one, and of what holds a
    journal and is pickled, the copy holds None.

    Attributes:
        path: the path of the file.
        recovered: number of entries that earlier runs left.
    """

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        """Opens a file, or makes it, for this process alone.

        A record that is damaged is left out, with a warning.  An empty file is a new journal.

        Args:
            path: the path of the file.
            settings: what entries depend on; those of earlier runs must be the same.

        Raises:
            OSError: if the file cannot be read and written, or another process has it.
            ValueError: if the file is no journal, its first line is damaged, or it is one of
                another run; names what differs. The file is left as it is.
        """
        self.path = path
        self.recovered = 0
        self._entries: dict[str, deque[Entry]] = defaultdict(deque)
        self._end = 0  # of the last whole line
        self._torn = False  # whether something may stand behind it
        self._key = b""  # of the checksums of records
        if path.exists() and not path.is_file():
            raise OSError(f"journal {path}: expected a file")
        try:
            # Unbuffered: a write that failed must not be tried again when the file is closed.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._cannot("be opened", error) from error
        try:
            self._lock()
            self._recover(dict(settings))
        except BaseException:
            self._file.close()
            raise

    def __copy__(self) -> Journal:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Journal:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _left_behind, (str(self.path),)

    def take(self, key: str) -> Entry | None:
        """Takes out the oldest entry under `key` of earlier runs; None if there is none left."""
        entries = self._entries.get(key)
        return entries.popleft() if entries else None

    def add(self, values: Sequence[tuple[str, Any]], moment: Any = None) -> None:
        """Adds a record; when this returns, it is on disk.

        Whatever interrupts this, nothing of the record is left in the file, or nothing more is
        written to it.

        Args:
            values: keys and values (JSON).
            moment: what else is to be kept, once for all of them (JSON).

        Raises:
            OSError: if it cannot be written, or what an earlier attempt left cannot be removed;
                records before are safe.
        """
        text = _json([values, moment])
        self._write(_checksum(text, self._key) + b" " + text)

    def damaged(self, line: int, reason: str) -> None:
        """Warns that the record in a line is damaged, so that its entries are made again."""
        logger.warning(f"journal {self.path}: line {line} is damaged ({reason}); it is done again")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"journal {self.path}: another process is writing it") from error
        except OSError as error:
            raise self._cannot("be locked", error) from error

    def _recover(self, settings: dict[str, str]) -> None:
        lines = self._lines()
        header = next(lines, b"")
        if header:
            self._compare(_settings_in(self.path, header), settings)
            self._end = len(header)
            self._key = _key_of(header)
            for number, line in enumerate(lines, 2):
                self._take_in(number, line)
                self._end += len(line)
        self._torn = True  # what follows the last end of line, if anything
        if header:
            self._cut()
        else:
            text = _json(settings)
            line = MAGIC + _checksum(text) + b" " + text
            self._write(line)
            self._key = _key_of(line + b"\n")
            sync_folder(self.path.absolute().parent)

    def _lines(self) -> Iterator[bytes]:
        """Yields the whole lines of the file, ends included.

        Raises:
            ValueError: if there is something in it that is not of a journal.
        """
        try:
            with open(os.dup(self._file.fileno()), "rb") as reader:
                reader.seek(0)
                start = reader.read(len(MAGIC))
                if start and start != MAGIC:
                    raise ValueError(
                        f"journal {self.path}: is no journal: expected it to begin with "
                        f"{MAGIC.decode()!r}, got {start!r}; it is left as it is: give another file"
                    )
                reader.seek(0)
                yield from (line for line in reader if line.endswith(b"\n"))
        except OSError as error:
            raise self._cannot("be read", error) from error

    def _take_in(self, number: int, line: bytes) -> None:
        try:
            values, moment = json.loads(_checked(line, self._key))
            entries = [(str(key), Entry(value, moment, number)) for key, value in values]
        except (ValueError, TypeError, RecursionError) as error:
            return self.damaged(number, str(error))
        for key, entry in entries:
            self._entries[key].append(entry)
        self.recovered += len(entries)

    def _compare(self, recorded: dict[str, str], settings: dict[str, str]) -> None:
        found = differences(recorded, settings)
        if found:
            raise ValueError(
                f"journal {self.path}: it is of another run: {found}; give another file, or delete "
                "this one to begin anew"
            )

    def _write(self, text: bytes) -> None:
        self._cut()
        line = memoryview(text + b"\n")
        size = len(line)
        self._torn = True
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            if isinstance(error, OSError):
                reason = self._cannot("be written", error)
                self._try_to_cut()
                raise reason from error
            self._try_to_cut()
            raise
        self._torn = False
        self._end += size

    def _cut(self) -> None:
        """Removes what stands behind the last whole line, before anything else is written there."""
        if not self._torn:
            return
        try:
            self._file.truncate(self._end)
        except OSError as error:
            raise self._cannot(f"be cut to its first {self._end} bytes", error) from error
        self._torn = False

    def _try_to_cut(self) -> None:
        try:
            self._cut()
        except OSError as error:
            logger.warning(f"{error}; nothing more is written before it can")

    def _cannot(self, action: str, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"journal {self.path}: cannot {action} ({error.strerror or error}); what was finished "
            "before is safe, and the next run continues from there",
        )


def differences(recorded: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """Names what differs between the settings of two runs; empty if nothing does."""
    pairs = {x: (recorded.get(x), settings.get(x)) for x in {**recorded, **settings}}
    found = [
        f"{name} was {_short(theirs)} there and is {_short(ours)} here"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
    more = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def settings_of(path: Path) -> dict[str, str]:
    """Returns the settings that a journal begins with.

    Raises:
        OSError: if it cannot be read.
        ValueError: if the file is no journal, or its first line is damaged.
    """
    with open(path, "rb") as file:
        header = file.readline()
    if not header.startswith(MAGIC):
        raise ValueError(f"journal {path}: is no journal")
    return _settings_in(path, header)


def _settings_in(path: Path, header: bytes) -> dict[str, str]:
    try:
        return dict(json.loads(_checked(header.removeprefix(MAGIC))))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"journal {path}: line 1, the settings of the run, is damaged ({error}); give "
            "another file, or delete this one to begin anew"
        ) from error


def _left_behind(path: str) -> None:
    logger.warning(f"journal {path}: left where it was pickled; what is done here is not recorded")


def _json(item: Any) -> bytes:
    return json.dumps(item, separators=(",", ":")).encode()


def _checksum(text: bytes, key: bytes = b"") -> bytes:
    return hashlib.blake2b(text, digest_size=12, key=key).hexdigest().encode()


def _key_of(header: bytes) -> bytes:
    return hashlib.blake2b(header, digest_size=32).digest()


def _checked(line: bytes, key: bytes = b"") -> bytes:
    """Returns the text of a line.

    Raises:
        ValueError: if its checksum is of another text, or another run's.
    """
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    expected = _checksum(text, key)
    if checksum != expected:
        raise ValueError(f"expected the checksum {expected.decode()}, got {checksum[:24]!r}")
    return text


def _short(value: str | None) -> str:
    text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to disk, so that a new file's name survives, too."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
