"""A generation notices other work on its cores, and its threads then wait for a short time only."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from crossed import REST
from el_attention.decoder.company import Company
from el_attention.ops import extension
from families import generate, model_of
from tiny import assert_same

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(extension.unsupported is not None, reason="without compiled operators"),
]


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def company_after(*looks: tuple[float, int]) -> Company:
    """One that looked at times, in seconds, when there had been so many switches."""
    now, seen = 0.0, 0
    company = Company(lambda: seen, lambda: now)
    for now, seen in looks:  # noqa: B007
        company.look()
    return company


@pytest.mark.parametrize(
    ("looks", "is_noticed"),
    [
        ([], False),
        ([(1, 10), (2, 20), (3, 60)], False),
        ([(1, 10), (2, 90)], True),
        ([(1, 90), (100, 90)], True),  # it stays
        ([(0.01, 90)], False),  # too soon to tell
        ([(0.01, 90), (0.03, 90)], True),
    ],
)
def test_many_switches_are_company(looks, is_noticed) -> None:
    assert company_after(*looks).is_noticed == is_noticed


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_users_decide_how_threads_wait(name, monkeypatch) -> None:
    monkeypatch.setenv(name, "1000")
    assert not company_after((1, 900)).is_noticed


def test_a_single_thread_waits_for_none() -> None:
    torch.set_num_threads(1)
    assert not company_after((1, 900)).is_noticed


def test_a_copy_watches_for_itself() -> None:
    noticed = company_after((1, 900))
    for twin in (copy.deepcopy(noticed), pickle.loads(pickle.dumps(noticed))):
        assert not twin.is_noticed


def test_idle_threads_end_with_the_generation() -> None:
    before = len(os.listdir("/proc/self/task"))
    company = company_after((1, 900))
    if os.sysconf("SC_NPROCESSORS_ONLN") <= 8:
        assert len(os.listdir("/proc/self/task")) > before
    del company
    end = time.monotonic() + 10  # the members of the team end after its master
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) == before


def test_a_forked_process_ends_without_the_idle_threads() -> None:
    company = company_after((1, 900))
    child = os.fork()
    if child == 0:
        del company
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert company.is_noticed


@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_hypotheses_are_the_same_in_company(family, monkeypatch) -> None:
    expected = generate([model_of(family)], family, plan="auto")
    seen: list[Company] = []
    original = Company.look

    def look(self: Company) -> None:
        seen.append(self)
        self._at, self._seen = -1.0, -(10**9)  # always crowded
        original(self)

    monkeypatch.setattr(Company, "look", look)
    assert_same(expected, generate([model_of(family)], family, plan="auto"))
    assert seen and all(company.is_noticed for company in seen)


# Prints whether a process that may have so many more bytes of stacks has more threads.
LIMITED = """
import os, resource, sys
import torch
from el_attention._C import ShortWaits

torch.set_num_threads(2)
torch.zeros(1 << 18).exp_()
lines = open("/proc/self/status").read().splitlines()
held = next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + int(sys.argv[1]), resource.RLIM_INFINITY))
before = len(os.listdir("/proc/self/task"))
short_waits = ShortWaits(2)
print(len(os.listdir("/proc/self/task")) > before)
"""


@pytest.mark.skipif(os.sysconf("SC_NPROCESSORS_ONLN") > 8, reason="kMostThreads of short_waits.cpp")
@pytest.mark.parametrize(
    ("stacks", "has_more"),
    [
        pytest.param(1 << 20, False, marks=REST),
        (12 << 20, False),
        pytest.param(1 << 30, True, marks=REST),
    ],
)
def test_a_process_that_may_have_no_more_threads_goes_on_without(stacks, has_more) -> None:
    """A stack takes 8 MiB: with 12 there is one thread, and none for its team."""
    command = [sys.executable, "-c", LIMITED, str(stacks)]
    found = subprocess.run(
        ["bash", "-c", 'ulimit -s 8192 && exec "$@"', "-", *command], capture_output=True, text=True
    )
    assert (found.stdout, found.returncode) == (f"{has_more}\n", 0), found.stderr


# Prints the seconds of processor time that threads take while they have nothing to do.
WAITING = """
import statistics, sys, time
import torch
from el_attention._C import ShortWaits

torch.set_num_threads(2)
short_waits = ShortWaits(2)
numbers, used = torch.zeros(1 << 18), []
for _ in range(9):
    numbers.exp_()
    before = time.process_time()
    time.sleep(0.05)
    used.append(time.process_time() - before)
print(statistics.median(used))
"""


@pytest.mark.skipif(os.sysconf("SC_NPROCESSORS_ONLN") > 8, reason="kMostThreads of short_waits.cpp")
def test_threads_that_have_nothing_to_do_soon_leave_their_core() -> None:
    """They would take several milliseconds; without a second core they always leave at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", WAITING]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(found.stdout) < 1e-3
