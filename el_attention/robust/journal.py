"""A file of finished work that survives the death of its process: JSON lines, on disk at once.

The first line holds the settings of the run.  Every other line holds entries that were finished
together: key and value of each, and what else was to be kept of that moment.  A last line without
an end was being written when the process died, and is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

VERSION = 1


class Entry(NamedTuple):
    """What was recorded (JSON).

    Attributes:
        value: of the entry.
        moment: what was kept of the moment at which its line was finished, or None.
    """

    value: Any
    moment: Any


class Journal:
    """Entries of earlier runs, to be taken out, and of this run, to be added.

    Attributes:
        recovered: number of entries that earlier runs left.
    """

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        """Opens a file, or makes it, for this process alone.

        Args:
            path: of the file.
            settings: what entries depend on; those of earlier runs must be the same.

        Raises:
            OSError: if the file cannot be read and written, or another process has it.
            ValueError: if the file is no journal, or one of another run; names what differs.
        """
        self.recovered = 0
        self._path = path
        self._entries: dict[str, deque[Entry]] = defaultdict(deque)
        if path.exists() and not path.is_file():
            raise OSError(f"journal {path}: expected a file")
        try:
            # Unbuffered: a write that failed must not be tried again when the file is closed.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"journal {path}: another process is writing it") from error
        except OSError as error:
            reason = f"journal {path}: cannot be opened ({error.strerror})"
            raise OSError(error.errno, reason) from error
        self._recover(dict(settings))

    def take(self, key: str) -> Entry | None:
        """Takes out the oldest entry under `key` of earlier runs; None if there is none left."""
        entries = self._entries.get(key)
        return entries.popleft() if entries else None

    def add(self, values: Sequence[tuple[str, Any]], moment: Any = None) -> None:
        """Adds entries; when this returns, they are on disk.

        Args:
            values: keys and values (JSON).
            moment: what else is to be kept, once for all of them (JSON).

        Raises:
            OSError: if they cannot be written; those before are safe.
        """
        self._write([values, moment])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _recover(self, settings: dict[str, str]) -> None:
        self._file.seek(0)
        # What follows the last end of line was being written when a process died.
        lines = self._file.read().split(b"\n")[:-1]
        for number, line in enumerate(lines):
            try:
                if number == 0:
                    recorded = _header(json.loads(line))
                    continue
                values, moment = json.loads(line)
                for key, value in values:
                    self._entries[key].append(Entry(value, moment))
                    self.recovered += 1
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"journal {self._path}: line {number + 1} is damaged ({error}); give another "
                    "file, or delete this one to begin anew"
                ) from error
        if lines:
            self._compare(recorded, settings)
        self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write({"journal": VERSION, "settings": settings})
            _sync_folder(self._path.absolute().parent)

    def _compare(self, recorded: dict[str, str], settings: dict[str, str]) -> None:
        for name in {**recorded, **settings}:
            theirs, ours = recorded.get(name), settings.get(name)
            if theirs != ours:
                raise ValueError(
                    f"journal {self._path}: it is of another run: {name} was {theirs!r} there and "
                    f"is {ours!r} here; give another file, or delete this one to begin anew"
                )

    def _write(self, item: Any) -> None:
        line = memoryview(json.dumps(item, separators=(",", ":")).encode() + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(
                error.errno,
                f"journal {self._path}: cannot be written ({error.strerror}); what was finished "
                "before is safe, and the next run continues from there",
            ) from error


def _header(item: Any) -> dict[str, str]:
    if not isinstance(item, dict) or item.get("journal") != VERSION:
        raise TypeError(f"expected the header of a journal of version {VERSION}")
    return dict(item["settings"])


def _sync_folder(path: Path) -> None:
    """Lets a new file's name survive, too."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
