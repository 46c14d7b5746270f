"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional

from crossed import OPERATORS, REST, beyond_fast
from el_attention.attention import Lengths, Planner
from el_attention.ops import extension

if TYPE_CHECKING:
    from clidata import Workspace

# Tiny models are slower with threads, above all when several test processes share the cores.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where parameters multiply, `make test` runs some of the combinations; see `crossed`."""
    for item in beyond_fast(item for item in items if item.get_closest_marker("slow") is None):
        for mark in REST:
            item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def options_are_composed_once() -> Iterator[None]:
    """hydra composes the options of fairseq once: `composed`. A real start does without this."""
    if "fairseq" not in sys.modules:  # no test that was collected needs it
        yield
        return
    from fairseq.dataclass import utils

    from composed import composed

    with mock.patch.object(utils, "compose", composed):
        yield


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Corpora and checkpoints, which the workers of pytest-xdist share."""
    from clidata import Workspace, write_corpora

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    root = folder / "fairseq"
    with FileLock(folder / "fairseq.lock"):
        return Workspace(root) if root.exists() else write_corpora(root)


@pytest.fixture(params=OPERATORS)
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test once with each kind of operators."""
    if request.param == "pure PyTorch":
        monkeypatch.setattr(extension, "unsupported", "not built: this test does without")
    elif extension.unsupported is not None:
        pytest.skip(f"the compiled operators are {extension.unsupported}")


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets stock fairseq compute softmax in float64, where it would round to float32."""
    from fairseq import utils

    def in_own_dtype(function: Any) -> Any:
        def call(x: Tensor, dim: int, onnx_trace: bool = False) -> Tensor:
            return function(x, dim=dim, dtype=torch.promote_types(x.dtype, torch.float32))

        return call

    monkeypatch.setattr(utils, "softmax", in_own_dtype(functional.softmax))
    monkeypatch.setattr(utils, "log_softmax", in_own_dtype(functional.log_softmax))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Lengths]:
    """The lengths that plans were chosen for."""
    seen: list[Lengths] = []
    choose_for = Planner.choose_for

    def spy(self: Planner, *sizes: Any) -> Any:
        seen.append(sizes[-1])
        return choose_for(self, *sizes)

    monkeypatch.setattr(Planner, "choose_for", spy)
    return seen
