"""Generation for a corpus: every row once, in order, whatever happens to the run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from el_attention.corpus.crew import Alone, Crew, Workers
from el_attention.corpus.engine import Answer, Batch, Engine, Recipe
from el_attention.corpus.processes import Processes
from el_attention.corpus.progress import Progress
from el_attention.corpus.ray_actors import Actors
from el_attention.corpus.results import Result, check_output, write
from el_attention.corpus.source import Row, Source
from el_attention.corpus.store import Store, Window

ENGINES = ("processes", "ray")
# Rows that are put into batches together. More of them waste less on padding, and take longer to
# be read before the first is generated.
WINDOW = 16384


class Shard(NamedTuple):
    """A part of the batches of a corpus.

    Attributes:
        number: counts from 1.
        of: number of shards.
    """

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, number: int) -> bool:
        """Whether something with a number belongs to this shard."""
        return number % self.of == self.number - 1

    def has_all(self, window: int, windows: int) -> bool:
        """Whether a window belongs to this shard as a whole."""
        return self.has(window) and not self.has_some(window, windows)

    def has_some(self, window: int, windows: int) -> bool:
        """Whether a window, one of the last, belongs to all shards, by its batches in turns."""
        return window >= windows // self.of * self.of


WHOLE = Shard()


@dataclass(frozen=True)
class Report:
    """What a run has done.

    Attributes:
        output: the file.
        rows: how many it has.
        reasons: how often nothing was generated, by reason.
    """

    output: Path
    rows: int
    reasons: Counter[str]

    def __str__(self) -> str:
        if not self.reasons:
            return f"{self.output}: {self.rows:,} rows"
        parts = [f"{number:,} ({reason})" for reason, number in self.reasons.most_common()]
        return f"{self.output}: {self.rows:,} rows, without hypotheses: {', '.join(parts)}"


def generate(
    recipe: Recipe,
    source: Source,
    output: Path,
    *,
    workers: int | None = None,
    engine: str = "processes",
    shard: Shard = WHOLE,
    memory_budget: int | None = None,
    progress: TextIO | None = None,
) -> Report:
    """Generates for all rows of a corpus, or of one shard, and writes a file of results.

    Batches are fixed by the arguments alone.  What is finished is kept in the folder `output`.run;
    the same call continues a run that was ended in whatever way.

    Args:
        recipe: the recipe of the model.
        source: the source of the rows.
        output: file that is written, in the order of the rows.
        workers: number of workers that generate; None for this process or, with Ray, one.
        engine: what the workers are: "processes" of this machine, or actors of "ray", in the
            cluster at `RAY_ADDRESS` or in one that is started here.
        shard: which batches are generated.
        memory_budget: bytes for states and temporaries of a batch; None for what is free, which
            the first run finds out.
        progress: where lines about the progress go; None for nowhere.

    Returns:
        What is in the file.

    Raises:
        ImportError: if something is needed that is not installed.
        OSError: if a file cannot be read or written; what was finished is kept.
        RuntimeError: if a worker cannot load the model, or the cluster cannot be reached.
        TypeError: if the model is none that reads tokens and generates.
        ValueError: if the output is of another run, or an argument cannot be.
    """
    check_output(output)
    if shard.of > 1 and memory_budget is None:
        raise ValueError(
            f"shard {shard}: expected a memory budget, so that all shards have the same batches"
        )
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {ENGINES}, got {engine!r}")
    if engine == "ray" and memory_budget is None:
        raise ValueError("engine ray: expected a memory budget, for all machines of the cluster")
    contents = source.contents()
    if source.is_data_set:
        recipe = replace(recipe, data=str(source.path), split=source.split)
    with ExitStack() as stack:
        crew = stack.enter_context(closing(_crew(recipe, workers, engine)))
        rows = crew.ask("sentences") if contents.rows is None else contents.rows
        given = f"{memory_budget} bytes" if memory_budget else f"free for {workers or 1} workers"
        settings = {
            **crew.ask("settings"),
            "rows": contents.digest,
            "number of rows": str(rows),
            "column of texts": source.text_column,
            "column of ids": str(source.id_column),
            "data set": source.split if source.is_data_set else "none",
            "batch size": str(recipe.batch_size),
            "memory budget": given,
            "shard": str(shard),
        }
        store = stack.enter_context(closing(Store(output, settings)))
        number = -(-rows // WINDOW)
        windows = {
            window: shard.has_all(window, number)
            for window in range(number)
            if shard.has_all(window, number) or shard.has_some(window, number)
        }
        finished = store.finished
        if finished is None:
            budget = memory_budget or store.fact("memory budget")
            if budget is None:
                budget = crew.ask("share", recipe.sharing(workers or 1))
                store.keep("memory budget", budget)
            crew.begin(budget)
            shown = Progress(progress, rows // shard.of)
            run = stack.enter_context(closing(_Run(crew, store, shard, budget, shown)))
            run.work(source.rows(rows), windows)
            shown.close()
            if source.stamps() != contents.stamps:
                raise OSError(
                    f"corpus {source.path}: was changed while it was read; start the same command "
                    "again, which says whether its rows are still the same"
                )
            report = _written(output, store.results(windows), contents.whole_ids)
            finished = {"rows": report.rows, "reasons": report.reasons}
            store.finish(finished)
        store.clear(windows)
        return Report(output, finished["rows"], Counter(finished["reasons"]))


def _crew(recipe: Recipe, workers: int | None, engine: str) -> Crew:
    make = partial(Engine, recipe)
    if engine == "ray":
        number = workers or 1
        return Workers(Actors(make, number, recipe.device != "cpu"), number)
    return Alone(make) if workers is None else Workers(Processes(make, workers), workers)


class _Run:
    """The windows that are open, and what works on them."""

    def __init__(
        self, crew: Crew, store: Store, shard: Shard, budget: int, progress: Progress
    ) -> None:
        self._crew, self._store, self._shard, self._budget = crew, store, shard, budget
        self._progress = progress
        self._windows: dict[int, Window] = {}
        self._waiting: dict[int, dict[int, Row]] = {}

    def work(self, rows: Iterator[Row], windows: Mapping[int, bool]) -> None:
        """Generates for all rows that have no result yet.

        Args:
            rows: all rows, of other shards, too.
            windows: those of this shard, by number; whether all of it, or some batches.
        """
        for answers in self._crew.generate(self._batches(rows, windows)):
            number = next(iter(answers)) // WINDOW
            waiting = self._waiting[number]
            self._windows[number].add([waiting.pop(place) for place in answers], answers)
            self._progress.add(len(answers))
            if not waiting:
                self._finish(number)

    def close(self) -> None:
        """Closes what is open."""
        for window in self._windows.values():
            window.close()

    def _batches(self, rows: Iterator[Row], windows: Mapping[int, bool]) -> Iterator[Batch]:
        """Yields what is to be generated, and keeps what needs no model."""
        for number, some in enumerate(_windows(rows)):
            if number not in windows:
                continue
            window = self._windows[number] = self._store.window(number)
            done = window.places
            self._progress.skip(len(done))
            if window.complete:
                self._close(number)
                continue
            batches, reasons = self._fixed(number, some, windows[number])
            unusable = [row for row in some if row.place in reasons and row.place not in done]
            if unusable:
                answers = {row.place: Answer([], None, reasons[row.place]) for row in unusable}
                window.add(unusable, answers)
                self._progress.skip(len(unusable))
            left = [
                {place: tokens for place, tokens in batch.items() if place not in done}
                for batch in batches
            ]
            places = set().union(*left)
            self._waiting[number] = {row.place: row for row in some if row.place in places}
            if not places:
                self._finish(number)
            yield from filter(None, left)

    def _fixed(
        self, number: int, rows: Sequence[Row], whole: bool
    ) -> tuple[list[Batch], dict[int, str]]:
        """Returns batches of a window in this shard; and why other rows in it have none."""
        usable = {row.place: row.text for row in rows if row.reason is None}
        batches, reasons = self._crew.ask("fix", usable, self._budget)
        reasons |= {row.place: row.reason for row in rows if row.reason is not None}
        if whole:
            return batches, reasons
        # The first batches hold the longest rows: each shard has them in turn.
        mine = [batch for index, batch in enumerate(batches, number) if self._shard.has(index)]
        return mine, {place: text for place, text in reasons.items() if self._shard.has(place)}

    def _finish(self, number: int) -> None:
        self._windows[number].finish()
        self._close(number)

    def _close(self, number: int) -> None:
        self._windows.pop(number).close()
        self._waiting.pop(number, None)


def _windows(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while some := list(islice(rows, WINDOW)):
        yield some


def _written(output: Path, results: Iterable[Result], whole_ids: bool) -> Report:
    reasons: Counter[str] = Counter()

    def counted() -> Iterator[Result]:
        for result in results:
            if result.reason is not None:
                reasons[_kind(result.reason)] += 1
            yield result

    rows = write(output, counted(), whole_ids)
    return Report(output, rows, reasons)


def _kind(reason: str) -> str:
    """Returns the part of a reason that it shares with those of other rows."""
    return re.sub(r"^row \d+:? ", "", reason).partition(":")[0]
