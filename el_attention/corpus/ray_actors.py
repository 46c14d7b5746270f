"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from el_attention.corpus.crew import WorkerDied
from el_attention.corpus.engine import Engine

_PATIENCE = 10  # seconds until a cluster must have answered
# What begins HTTP/2, which clusters speak, with settings of none.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class Actors:
    """Starts workers as actors, on whichever nodes have room for them."""

    def __init__(self, make: Callable[[int], Engine], workers: int, uses_gpus: bool) -> None:
        """Joins the cluster at `RAY_ADDRESS` or, without that, starts Ray on this machine.

        Args:
            make: returns an engine, by the number of its worker; it can be pickled.
            workers: number of workers, which share the cores of the cluster evenly.
            uses_gpus: whether each worker has a GPU, if the cluster has any.

        Raises:
            ImportError: if Ray is not there.
            RuntimeError: if the cluster cannot be reached.
            ValueError: if it has less than a core, or less than a GPU, for each worker.
        """
        try:
            self._ray = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError(f"engine ray: needs Ray ({error}): pip install ray") from error
        try:
            _reach(os.environ.get("RAY_ADDRESS", ""))
            self._ray.init(ignore_reinit_error=True, log_to_driver=False)
        except (Exception, SystemExit) as error:  # of as many kinds as there are networks
            raise RuntimeError(
                f"engine ray: the cluster cannot be reached: {type(error).__name__}: {error}"
            ) from error
        there = self._ray.cluster_resources()
        cores, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0)) if uses_gpus else 0
        if workers > cores or 0 < gpus < workers:
            raise ValueError(
                f"engine ray: expected a core for each of {workers} workers, and a GPU if there "
                f"are any; the cluster has {cores} cores and {gpus} GPUs"
            )
        # Ray gives an actor as many threads as it has cores.
        resources = {"num_cpus": cores // workers, "num_gpus": min(gpus, 1)}
        # An actor that dies is replaced by `Workers`, which knows what it was doing.
        self._class = self._ray.remote(_Actor).options(max_restarts=0, **resources)
        self._make = make

    def start(self, number: int) -> ActorWorker:
        """See `Host`."""
        return ActorWorker(self._ray, number, self._class.remote(self._make, number))

    def answering(self, workers: Sequence[ActorWorker]) -> list[ActorWorker]:
        """See `Host`."""
        ready, _ = self._ray.wait([worker.answer for worker in workers], num_returns=1)
        return [worker for worker in workers if worker.answer in ready]


def _reach(address: str) -> None:
    """Waits for an answer from an address HOST:PORT, for which Ray would try for minutes.

    Raises:
        OSError: if there is none.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit():
        at = host.rpartition("/")[2], int(port)
        with socket.create_connection(at, timeout=_PATIENCE) as connection:
            connection.sendall(_GREETING)
            connection.recv(1)


class ActorWorker:
    """An actor with an engine; see `Worker`.

    Attributes:
        number: the number of the worker, from 0.
        answer: to what was asked last, when it is there.
    """

    def __init__(self, ray: Any, number: int, actor: Any) -> None:
        self.number = number
        self.answer = actor.load.remote()
        self._ray, self._actor = ray, actor

    def send(self, method: str, *arguments: Any) -> None:
        """See `Worker`."""
        self.answer = self._actor.call.remote(method, arguments)

    def receive(self) -> Any:
        """See `Worker`."""
        try:
            return self._ray.get(self.answer)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            text = f"worker {self.number + 1}: {type(cause).__name__}: {cause}"
            raise (OSError if isinstance(cause, OSError) else RuntimeError)(text) from error
        except self._ray.exceptions.OutOfDiskError as error:
            raise OSError(f"worker {self.number + 1}: a disk of its node is full") from error
        except self._ray.exceptions.RayError as error:
            lines = str(error).splitlines()  # of a traceback, too, where an actor cannot be made
            raise WorkerDied(" ... ".join(dict.fromkeys([lines[0], lines[-1]]))) from error

    def stop(self) -> None:
        """See `Worker`."""
        self._ray.kill(self._actor)


class _Actor:
    """What runs in an actor."""

    def __init__(self, make: Callable[[int], Engine], worker: int) -> None:
        self._make, self._worker = make, worker

    def load(self) -> None:
        self._engine = self._make(self._worker)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._engine, method)(*arguments)
