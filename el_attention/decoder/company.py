"""Other work on the cores of a generation, and how its threads wait then."""

from __future__ import annotations

import importlib
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from el_attention.ops import extension

# Seconds between two looks at a counter: some turns of the system's scheduler.
_INTERVAL = 0.02
# Switches per second from which on there is company.  Without it they are a few; each process that
# competes for a core makes about a hundred.
_CROWDED = 50.0
# Who sets one of these decides how threads wait.
_DECIDED = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def switches() -> int:
    """Returns how often threads of this process had to leave a core to others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Company:
    """Lets the threads of a generation give their cores away soon, if others want them.

    A thread of GNU OpenMP that has no work looks for it for milliseconds.  In company it so keeps
    its core from the thread that is to give it work, and every operator may take as long as a turn
    of the scheduler.
    """

    def __init__(
        self, count: Callable[[], int] = switches, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins to watch.

        Args:
            count: returns the switches so far, see `switches`.
            clock: returns seconds.
        """
        self._count, self._clock = count, clock
        self._short_waits: Any = None
        self._watches = (
            extension.unsupported is None
            and torch.get_num_threads() > 1
            and not any(name in os.environ for name in _DECIDED)
        )
        self._seen, self._at = count(), clock()

    def __reduce__(self) -> tuple[type[Company], tuple[()]]:
        return Company, ()  # a copy watches for itself

    @property
    def is_noticed(self) -> bool:
        """Whether there was company; once noticed, it is taken to stay."""
        return self._short_waits is not None

    def look(self) -> None:
        """Looks for company; takes about a microsecond."""
        if not self._watches or self.is_noticed:
            return
        now = self._clock()
        if now - self._at < _INTERVAL:
            return
        seen = self._count()
        if seen - self._seen > _CROWDED * (now - self._at):
            module = importlib.import_module("el_attention._C")
            self._short_waits = module.ShortWaits(torch.get_num_threads())
        self._seen, self._at = seen, now
