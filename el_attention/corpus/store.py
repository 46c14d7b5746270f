"""What a run has finished, in a folder beside its output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from el_attention.corpus.engine import Answer
from el_attention.corpus.results import Result
from el_attention.corpus.source import Row
from el_attention.robust.journal import Journal

SETTINGS = "settings"
_COMPLETE = "complete"


def folder_of(output: Path) -> Path:
    """Returns the folder of a run, by the file that it writes."""
    return output.with_name(f"{output.name}.run")


class Window:
    """Consecutive rows, whose results are kept together."""

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        """Opens the file of a window, or makes it.

        Raises:
            OSError: if it cannot be read and written.
            ValueError: if it is damaged, or of another run.
        """
        self._journal = Journal(path, settings)
        self._results: dict[int, Result] = {}
        self._expected: int | None = None
        while (entry := self._journal.take(_COMPLETE)) is not None:
            self._expected = int(entry.value)
        while (entry := self._journal.take("row")) is not None:
            place, *values = entry.value
            self._results[place] = Result(*values)

    @property
    def results(self) -> list[Result]:
        """The results so far, in the order of the rows."""
        return [self._results[place] for place in sorted(self._results)]

    @property
    def places(self) -> set[int]:
        """The rows that have a result."""
        return set(self._results)

    @property
    def complete(self) -> bool:
        """Whether all rows of this run have a result."""
        return self._expected == len(self._results)

    def add(self, rows: Sequence[Row], answers: Mapping[int, Answer]) -> None:
        """Keeps the results of some rows; when this returns, they are on disk.

        Raises:
            OSError: if they cannot be written.
        """
        new = {row.place: Result(row.id, **answers[row.place]._asdict()) for row in rows}
        self._journal.add([("row", [place, *result]) for place, result in new.items()])
        self._results |= new

    def finish(self) -> None:
        """Keeps that there are no more rows.

        Raises:
            OSError: if it cannot be written.
        """
        self._expected = len(self._results)
        self._journal.add([(_COMPLETE, self._expected)])

    def close(self) -> None:
        """Closes the file."""
        self._journal.close()


class Store:
    """The folder of a run: a journal of its settings, and one for each window.

    The folder is open in one process.  When the output is written, the windows go; the journal of
    the settings stays, and says of which run the output is.
    """

    def __init__(self, output: Path, settings: Mapping[str, str]) -> None:
        """Opens the folder of a run, or makes it.

        Args:
            output: file of the run.
            settings: what results depend on.

        Raises:
            OSError: if the folder cannot be read and written, or another process has it.
            ValueError: if it is of another run, or the output of none that is known.
        """
        folder = folder_of(output)
        if output.exists() and not (folder / SETTINGS).exists():
            raise ValueError(
                f"output {output}: it exists, and {folder.name} beside it does not say of which "
                "run it is; give another name, or delete it"
            )
        folder.mkdir(exist_ok=True)
        self._folder, self._output, self._settings = folder, output, dict(settings)
        self._journal = Journal(folder / SETTINGS, settings)
        self._facts: dict[str, Any] = {}
        while (entry := self._journal.take("fact")) is not None:
            name, value = entry.value
            self._facts[name] = value

    @property
    def finished(self) -> Any:
        """What `finish` has kept, or None if there is no output yet.

        Raises:
            ValueError: if the output is not what was written.
        """
        fact = self._facts.get("finished")
        if fact is None or not self._output.exists():
            return None
        size, value = fact
        found = self._output.stat().st_size
        if found != size:
            raise ValueError(
                f"output {self._output}: its run wrote {size:,} bytes, now it has {found:,}; give "
                "another name, or delete it"
            )
        return value

    def fact(self, name: str) -> Any:
        """Returns what was kept under a name, or None."""
        return self._facts.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Keeps something for later runs (JSON).

        Raises:
            OSError: if it cannot be written.
        """
        self._journal.add([("fact", [name, value])])
        self._facts[name] = value

    def window(self, number: int) -> Window:
        """Opens a window; see `Window`."""
        path = self._folder / f"{number:06}"
        return Window(path, {**self._settings, "window": str(number)})

    def results(self, windows: Iterable[int]) -> Iterator[Result]:
        """Yields all results, in the order of the rows.

        Args:
            windows: their numbers.

        Raises:
            ValueError: if a result that was there is damaged now.
        """
        for number in windows:
            with closing(self.window(number)) as window:
                if not window.complete:
                    raise ValueError(
                        f"{self._folder / f'{number:06}'}: was damaged while the run went on; "
                        "start it again"
                    )
                yield from window.results

    def finish(self, value: Any) -> None:
        """Keeps that the output is written, and something about it (JSON).

        Raises:
            OSError: if it cannot be written.
        """
        self.keep("finished", [self._output.stat().st_size, value])

    def clear(self, windows: Iterable[int]) -> None:
        """Removes the windows.

        Args:
            windows: their numbers.
        """
        for number in windows:
            (self._folder / f"{number:06}").unlink(missing_ok=True)

    def close(self) -> None:
        """Lets other processes have the folder."""
        self._journal.close()
