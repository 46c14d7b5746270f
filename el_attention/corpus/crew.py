"""Who generates: an engine in this process, or workers with one each, wherever they are."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from el_attention.corpus.engine import Answer, Batch, Engine

logger = logging.getLogger(__name__)

# Workers that may die with a batch before its rows are tried alone, and then with a row.
_DEATHS = 2


class Crew(Protocol):
    """One or several engines of one recipe."""

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of an engine returns."""

    def begin(self, memory_budget: int) -> None:
        """Gets all engines ready, with bytes for the batches of each."""

    def generate(self, batches: Iterable[Batch]) -> Iterator[dict[int, Answer]]:
        """Yields answers for all rows of all batches, in any order, those of some rows together.

        Raises:
            OSError: if the machine of an engine fails, as where a disk is full.
        """

    def close(self) -> None:
        """Ends what was begun."""


class Alone:
    """An engine in this process."""

    def __init__(self, make: Callable[[int], Engine]) -> None:
        """Loads the model; see `Engine` for what it raises."""
        self._engine = make(0)

    def ask(self, method: str, *arguments: Any) -> Any:
        """See `Crew`."""
        return getattr(self._engine, method)(*arguments)

    def begin(self, memory_budget: int) -> None:
        """See `Crew`."""
        self._engine.limit(memory_budget)

    def generate(self, batches: Iterable[Batch]) -> Iterator[dict[int, Answer]]:
        """See `Crew`."""
        return map(self._engine.generate, batches)

    def close(self) -> None:
        """See `Crew`."""


class WorkerDied(Exception):
    """A worker ended while it was to answer; the text says how."""


class Worker(Protocol):
    """What has an engine; its first answer says that the model is loaded."""

    number: int

    def send(self, method: str, *arguments: Any) -> None:
        """Asks for what a method of the engine returns."""

    def receive(self) -> Any:
        """Returns the next answer.

        Raises:
            OSError: if the engine raised one, as where a disk is full.
            RuntimeError: if the engine raised another error; nothing more can be asked.
            WorkerDied: if there will be no answer.
        """

    def stop(self) -> None:
        """Ends it."""


W = TypeVar("W", bound=Worker)


class Host(Protocol[W]):
    """Where workers are."""

    def start(self, number: int) -> W:
        """Starts a worker, which loads the model."""

    def answering(self, workers: Sequence[W]) -> Sequence[W]:
        """Waits until some workers have answered or died, and returns them."""


class _Task(NamedTuple):
    batch: Batch
    deaths: int = 0  # of workers that were generating for it


class Workers(Generic[W]):
    """Several workers; one that dies is replaced."""

    def __init__(self, host: Host[W], workers: int) -> None:
        """Starts the first worker, which loads the model before the others do.

        Args:
            host: where they are.
            workers: their number.

        Raises:
            RuntimeError: if the model does not load there.
        """
        self._host, self._number = host, workers
        self._budget: int | None = None
        self._busy: dict[int, _Task] = {}
        self._workers: list[W] = []
        self._start(1)

    def ask(self, method: str, *arguments: Any) -> Any:
        """See `Crew`.

        Raises:
            OSError: if the engine raises one.
            RuntimeError: if the engine raises another error, or every worker dies with it.
        """
        deaths = 0
        while True:
            worker = next(worker for worker in self._workers if worker.number not in self._busy)
            worker.send(method, *arguments)
            try:
                return worker.receive()
            except WorkerDied as death:
                deaths += 1
                if deaths == _DEATHS:
                    raise _error_of(worker, death) from death
                logger.warning(f"a worker died when it was asked to {method}: {death}")
                self._replace(worker)

    def begin(self, memory_budget: int) -> None:
        """See `Crew`.

        Raises:
            RuntimeError: if the model does not load in one of the workers.
        """
        self._budget = memory_budget
        self.ask("limit", memory_budget)
        self._start(self._number)

    def generate(self, batches: Iterable[Batch]) -> Iterator[dict[int, Answer]]:
        """See `Crew`."""
        again: deque[_Task] = deque()
        tasks = map(_Task, batches)
        while True:
            for number in range(len(self._workers)):
                if number not in self._busy:
                    task = again.popleft() if again else next(tasks, None)  # which may ask
                    if task is None:
                        break
                    self._busy[number] = task
                    self._workers[number].send("generate", task.batch)
            busy = [worker for worker in self._workers if worker.number in self._busy]
            if not busy:
                return
            for worker in self._host.answering(busy):
                task = self._busy.pop(worker.number)
                try:
                    answers = worker.receive()
                except (RuntimeError, WorkerDied) as death:
                    answers = _after_death(task, str(death), again)
                    self._replace(worker)
                if answers:
                    yield answers

    def close(self) -> None:
        """See `Crew`."""
        for worker in self._workers:
            worker.stop()

    def _start(self, number: int) -> None:
        """Starts workers until there are so many, all at once, and waits for them."""
        new = [self._host.start(place) for place in range(len(self._workers), number)]
        self._workers += new
        for worker in new:
            self._prepare(worker)

    def _replace(self, worker: W) -> None:
        worker.stop()
        self._workers[worker.number] = self._host.start(worker.number)
        self._prepare(self._workers[worker.number])

    def _prepare(self, worker: W) -> None:
        _answer(worker)
        if self._budget is not None:
            worker.send("limit", self._budget)
            _answer(worker)


def _answer(worker: Worker) -> Any:
    try:
        return worker.receive()
    except WorkerDied as death:
        raise _error_of(worker, death) from death


def _error_of(worker: Worker, death: WorkerDied) -> RuntimeError:
    return RuntimeError(f"worker {worker.number + 1} died: {death}")


def _after_death(task: _Task, death: str, again: deque[_Task]) -> dict[int, Answer]:
    """Puts a task with which a worker died where it is tried again, or gives up its row."""
    deaths = task.deaths + 1
    rows = ", ".join(str(place + 1) for place in task.batch)
    logger.warning(f"a worker died while it generated for rows {rows}: {death}")
    if deaths < _DEATHS:
        again.append(_Task(task.batch, deaths))
    elif len(task.batch) > 1:
        again += (_Task({place: tokens}) for place, tokens in task.batch.items())
    else:
        reason = f"every worker that generates for it dies: {death}"
        return dict.fromkeys(task.batch, Answer([], None, reason))
    return {}
