"""Workers that are processes of this machine, each on cores of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from el_attention.corpus.crew import WorkerDied
from el_attention.corpus.engine import Engine

_PATIENCE = 10  # seconds until a process that has closed its connection has ended


class Processes:
    """Starts workers as processes."""

    def __init__(
        self, make: Callable[[int], Engine], workers: int, start_method: str = "spawn"
    ) -> None:
        """Takes what all workers have in common.

        Args:
            make: returns an engine, by the number of its worker; it can be pickled.
            workers: number of workers, which share the cores.
            start_method: a start method of `multiprocessing`.
        """
        self._make, self._workers = make, workers
        self._context: Any = multiprocessing.get_context(start_method)

    def start(self, number: int) -> ProcessWorker:
        """See `Host`."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._make, number, self._workers), daemon=True
        )
        process.start()
        theirs.close()
        return ProcessWorker(number, process, ours)

    def answering(self, workers: Sequence[ProcessWorker]) -> list[ProcessWorker]:
        """See `Host`."""
        connections = wait([worker.connection for worker in workers])
        return [worker for worker in workers if worker.connection in connections]


class ProcessWorker:
    """A process with an engine; see `Worker`.

    Attributes:
        number: the number of the worker, from 0.
        connection: to the process.
    """

    def __init__(self, number: int, process: BaseProcess, connection: Connection) -> None:
        self.number, self.connection = number, connection
        self._process = process
        self._asked = True  # it is to say that the model is loaded

    def send(self, method: str, *arguments: Any) -> None:
        """See `Worker`."""
        self._asked = True
        with contextlib.suppress(OSError):  # of a dead process, found where its answer is read
            self.connection.send((method, arguments))

    def receive(self) -> Any:
        """See `Worker`."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            raise WorkerDied(_end(self._process.exitcode)) from None
        if isinstance(answer, _Failure):
            text = f"worker {self.number + 1}: {answer.text}"
            raise OSError(text) if answer.of_machine else RuntimeError(text)
        self._asked = False
        return answer

    def stop(self) -> None:
        """See `Worker`."""
        if not self._asked:  # then it listens, ends by itself, and cleans up
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self._process.join(_PATIENCE)
        self.connection.close()
        self._process.kill()
        self._process.join()


class _Failure(NamedTuple):
    text: str  # of the error that an engine raised
    of_machine: bool  # whether it is an OSError


def pin(worker: int, workers: int) -> list[int]:
    """Gives this process cores of its own, as far as there are enough, and no more threads.

    Args:
        worker: number of this process, from 0.
        workers: number of processes.

    Returns:
        The numbers of the cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = cores[worker * len(cores) // workers : (worker + 1) * len(cores) // workers]
    own = own or [cores[worker % len(cores)]]
    os.sched_setaffinity(0, own)
    torch.set_num_threads(min(torch.get_num_threads(), len(own)))
    return own


def _serve(
    connection: Connection, make: Callable[[int], Engine], worker: int, workers: int
) -> None:
    """Makes an engine, says so, and answers; an error ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides what an interrupt means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pin(worker, workers)
    try:
        engine = make(worker)
        connection.send(None)
        while (request := connection.recv()) is not None:
            method, arguments = request
            connection.send(getattr(engine, method)(*arguments))
    except EOFError:
        return  # nobody listens any more
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        connection.send(_Failure(text, isinstance(error, OSError)))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _end(status: int | None) -> str:
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"it ended with status {status}"
