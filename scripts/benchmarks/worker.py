"""A system in a process of its own, which generates when it is told to."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.systems import SYSTEMS, Hypotheses, Outcome
from el_attention.cost import Memory


class Worker:
    """The process, as its parent sees it; a context manager.

    So a system's memory is counted apart, and no system meets another's threads or libraries.
    """

    def __init__(self, name: str, case: Case, folder: Path, threads: int) -> None:
        """Starts the process, which then loads its model."""
        self.name = name
        # Forked from a process that has imported everything and computed nothing.
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before any library looks for it
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.weights", "el_attention"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(name, case, folder, threads, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Waits until the model is loaded.

        Raises:
            RuntimeError: if that fails; with the traceback.
        """
        self.closing: int = self._receive()

    def generate(self, case: Case) -> Outcome:
        """Generates for the random sources of a case.

        Raises:
            RuntimeError: if that fails; with the traceback.
        """
        outcome: Outcome = self._ask("generate", case)
        return outcome

    def scored(self, case: Case) -> Hypotheses:
        """Generates with scores; see `System.scored`.

        Raises:
            RuntimeError: if that fails; with the traceback.
        """
        hypotheses: Hypotheses = self._ask("scored", case)
        return hypotheses

    def forget(self, case: Case) -> None:
        """Gives back what was freed so far, so that no peak hides in it, and forgets the peak."""
        self._ask("forget", case)

    def memory(self, case: Case) -> tuple[int, Memory | None]:
        """The peak of memory since it was forgotten, and what the system predicts for a case.

        Returns:
            Bytes that were resident, weights included, and no part of a file, beyond those of a
            process that has imported torch and fairseq and read the dictionary; and see
            `System.predicted`.
        """
        found: tuple[int, Memory | None] = self._ask("memory", case)
        return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *reason: object) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.kill()

    def _ask(self, question: str, case: Case) -> Any:
        self._pipe.send((question, case))
        return self._receive()

    def _receive(self) -> Any:
        try:
            result = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"{self.name}: its process ended with status {self._process.exitcode}"
            ) from None
        if isinstance(result, _Failure):
            raise RuntimeError(f"{self.name}:\n{result.text}")
        return result


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _serve(name: str, case: Case, folder: Path, threads: int, pipe: Connection) -> None:
    """The child: loads, then answers until the parent hangs up."""
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    import torch

    from benchmarks.memory import ProcessMemory
    from benchmarks.weights import sources_of

    torch.set_num_threads(threads)
    kind, options = SYSTEMS[name]
    memory = ProcessMemory(None)
    try:
        system = kind(case, folder, **options)
        memory.start()
        with torch.no_grad():
            system.load()
            pipe.send(system.closing)

            def forget(case: Case) -> None:
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)
                memory.reset_peak()

            answers: dict[str, Callable[[Case], Any]] = {
                "generate": lambda case: system.generate(case, sources_of(case)),
                "scored": lambda case: system.scored(case, sources_of(case)),
                "forget": forget,
                "memory": lambda case: (memory.peak(), system.predicted(case)),
            }
            while True:
                question, asked = pipe.recv()
                pipe.send(answers[question](asked))
    except EOFError:
        pass
    except Exception:
        pipe.send(_Failure(traceback.format_exc()))
