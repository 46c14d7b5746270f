"""fairseq checkpoints of every age load under torch's safe default, and nothing else does."""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import meters
from torch import serialization

import el_attention
from clidata import CHECKPOINTS, run
from el_attention.plugin.checkpoints import configuration_classes, metric_classes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

# Each kind of checkpoint, and the classes without which it would not load.
NEEDS: dict[str, set[str]] = {
    "options in a dictionary": {"argparse.Namespace"},
    "options in a namespace": {"argparse.Namespace"},
    "options of omegaconf": {
        "argparse.Namespace",
        "builtins.dict",
        "builtins.int",
        "builtins.list",
        "collections.defaultdict",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.nodes.AnyNode",
        "typing.Any",
    },
    "trained with --eval-bleu": {
        "argparse.Namespace",
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.dtypes.Int64DType",
        "numpy.core.multiarray._reconstruct",
    },
    "trained with --eval-bleu by another numpy": {
        "argparse.Namespace",
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.dtypes.Float64DType",
        "numpy._core.multiarray._reconstruct",
    },
    "with the meters of fairseq 0.8": {
        "argparse.Namespace",
        "fairseq.meters.AverageMeter",
        "fairseq.meters.StopwatchMeter",
        "fairseq.meters.TimeMeter",
    },
}


def name_of(allowed: Any) -> str:
    """The name under which the safe loader knows a class."""
    if isinstance(allowed, tuple):
        return str(allowed[1])
    return f"{allowed.__module__}.{allowed.__qualname__}"


@pytest.fixture(scope="module")
def trained(workspace) -> dict[str, Any]:
    """A checkpoint of stock fairseq-train, as it is."""
    return torch.load(workspace.checkpoint("transformer"))


@pytest.fixture
def checkpoint(workspace, trained, tmp_path, request) -> Path:
    """A checkpoint of the kind that the test names."""
    state, kind = dict(trained), request.param
    path = tmp_path / "checkpoint.pt"
    arguments = options.parse_args_and_arch(
        options.get_training_parser(), workspace.training("transformer")
    )
    if kind == "options in a namespace":  # fairseq up to 0.10
        state["args"] = arguments
        del state["cfg"]
    elif kind == "options of omegaconf":  # between 0.10 and 0.12
        state["cfg"] = convert_namespace_to_omegaconf(arguments)
    elif "eval-bleu" in kind:
        counts = numpy.array([3.0, 1.0] if "another" in kind else [3, 1])
        meter = meters.AverageMeter()
        meter.update(counts)
        bleu = (0, "_bleu_counts", "AverageMeter", meter.state_dict())
        state["extra_state"] = {**state["extra_state"], "metrics": {"default": [bleu]}}
    elif "meters" in kind:
        state["args"] = arguments
        del state["cfg"]
        kinds = {
            "train_loss": meters.AverageMeter(),
            "wps": meters.TimeMeter(),
            "train_wall": meters.StopwatchMeter(),
        }
        state["extra_state"] = {
            **state["extra_state"],
            "train_meters": collections.OrderedDict(kinds),
        }
    torch.save(state, path)
    renamed = {
        "meters": ("fairseq.logging.meters", "fairseq.meters"),
        "another": ("numpy.core.multiarray", "numpy._core.multiarray"),
        "eval-bleu": ("numpy._core.multiarray", "numpy.core.multiarray"),
    }
    for part, names in renamed.items():
        if part in kind:
            rename_module(path, *names)
            break
    return path


def rename_module(path: Path, old: str, new: str) -> None:
    """Lets the pickle of a checkpoint name a module as another version would."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            if name.endswith("data.pkl"):
                content = content.replace(f"c{old}\n".encode(), f"c{new}\n".encode())
            archive.writestr(name, content)


@pytest.mark.parametrize("checkpoint", NEEDS, indirect=True)
def test_every_kind_of_checkpoint_generates(workspace, checkpoint):
    reference = run("generate", *workspace.generation("translation", "transformer"))
    options = ["--path", str(checkpoint)]
    arguments = workspace.generation("translation", "transformer", *options, plan="auto")
    assert [line.split("\t")[-1] for line in run("generate", *arguments) if line[0] == "H"] == [
        line.split("\t")[-1] for line in reference if line[0] == "H"
    ]


@pytest.mark.parametrize(
    ("checkpoint", "needed"),
    [(kind, name) for kind, names in NEEDS.items() for name in sorted(names)],
    indirect=["checkpoint"],
)
def test_every_allowed_class_is_needed(checkpoint, needed):
    allowed = {name_of(entry): entry for entry in (*configuration_classes(), *metric_classes())}
    if needed not in allowed and needed.startswith("numpy.dtypes."):
        pytest.skip("this numpy has one class for all dtypes")
    before = serialization.get_safe_globals()
    try:
        serialization.clear_safe_globals()
        serialization.add_safe_globals([allowed[name] for name in allowed if name != needed])
        with pytest.raises(pickle.UnpicklingError):
            torch.load(checkpoint)
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)
    torch.load(checkpoint)


def test_nothing_else_is_allowed():
    allowed = {name_of(entry) for entry in (*configuration_classes(), *metric_classes())}
    assert allowed == set().union(*NEEDS.values())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_fairseq_train_writes_for_each_family_loads(workspace, name):
    state = checkpoint_utils.load_checkpoint_to_cpu(workspace.checkpoint(name))
    assert state["model"]
    assert state["last_optimizer_state"]
    assert state["extra_state"]["metrics"]


class Custom:
    """A class that is no configuration."""


class Command:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo unsafe",)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Custom(), "Custom"),
        (Command(), "system"),
        (pathlib.PurePosixPath("a"), "PurePosixPath"),
        (Dictionary(), "fairseq.data.dictionary.Dictionary"),
        (argparse.HelpFormatter, "HelpFormatter"),
        (getattr, "getattr"),
    ],
)
def test_anything_else_is_refused_by_name(trained, tmp_path, content, name, capfd):
    for place in ("cfg", "args", "model", "extra_state"):
        torch.save({**trained, place: {"something": content}}, tmp_path / "checkpoint.pt")
        with pytest.raises(pickle.UnpicklingError, match=name):
            checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint.pt"))
    assert "unsafe" not in capfd.readouterr().out


def test_the_check_itself_stays_on(tmp_path):
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert el_attention.fairseq_error is None
    torch.save(Custom(), tmp_path / "custom.pt")
    with pytest.raises(pickle.UnpicklingError, match="Custom"):
        torch.load(tmp_path / "custom.pt")


def test_options_that_this_version_does_not_know_are_dropped_as_stock_drops_them(
    workspace, tmp_path
):
    state = torch.load(workspace.checkpoint("lm"))
    state["cfg"]["model"]["option_of_another_version"] = 1
    torch.save(state, tmp_path / "checkpoint.pt")
    outcomes = []
    for plan in (None, "auto"):
        options = ["--path", str(tmp_path / "checkpoint.pt")]
        arguments = workspace.generation("lm", "lm", *options, plan=plan)
        try:
            lines = run("interactive", *arguments, stdin="")
        except Exception as error:
            lines = [type(error).__name__]
        outcomes.append(lines)
    assert outcomes[0] == outcomes[1]
    if hasattr(checkpoint_utils, "load_model_ensemble_and_task_from_hf_hub"):
        assert outcomes[0] == []
