"""Fixtures that several test files share."""

from __future__ import annotations

import pytest
import torch
from clidata import Workspace, write_corpora


# Tiny models are slower with threads, above all when several test processes share the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_corpora(tmp_path_factory.mktemp("fairseq"))
