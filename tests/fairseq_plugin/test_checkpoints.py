"""fairseq checkpoints of every age load under torch's safe default, and nothing else does."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pathlib
import pickle
import random
import tempfile
import typing
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
from omegaconf import DictConfig, ListConfig, base, nodes
from torch import serialization

import el_attention
from clidata import CHECKPOINTS, run
from el_attention.fairseq_plugin.checkpoints import configuration_classes, metric_classes

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
        "numpy.core.multiarray._reconstruct",
    },
    "trained with --eval-bleu by another numpy": {
        "argparse.Namespace",
        "numpy.ndarray",
        "numpy.dtype",
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
    return str(allowed[1])


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


class Reduced:
    """What a pickle builds by a call and, after it, a state."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.reduced


def called(function: Any, *arguments: Any) -> Reduced:
    return Reduced(function, arguments)


def array_of(*state: Any) -> Reduced:
    """An array as numpy pickles it, of any state."""
    return Reduced(*numpy.zeros(1).__reduce__()[:2], state)


def blank_of(kind: type, state: Any) -> Reduced:
    """An object without arguments, of any state."""
    return Reduced(kind, (), state)


MARKER = Path(tempfile.gettempdir()) / f"executed-{os.getpid()}"
TOUCH = f"__import__('pathlib').Path({str(MARKER)!r}).touch()"
NUMBERS = numpy.dtype("f8")
METADATA = base.ContainerMetadata(typing.Any, dict, True, None, key_type=typing.Any)
HOSTILE: dict[str, Any] = {
    "a command": called(os.system, f"touch {MARKER}"),
    "code": called(eval, TOUCH),
    "a lookup": called(getattr, "a", "join"),
    "an array of pointers": called(numpy.ndarray, (1,), numpy.dtype("O"), b"AAAAAA\0\0"),
    "an array over bytes": called(numpy.ndarray, (1,), NUMBERS, b"AAAAAA\0\0"),
    "an array of objects": numpy.array([None, 1]),
    "an array of texts": numpy.array(["a"]),
    "an array of fields": numpy.zeros(1, [("a", "f8")]),
    "an array of dates": numpy.zeros(1, "M8[s]"),
    "a dtype": called(numpy.dtype, "O"),
    "a dtype of parts": called(numpy.dtype, [("a", "O")]),
    "an array of too few bytes": array_of(1, (1000,), NUMBERS, False, b"A" * 8),
    "an array of too many bytes": array_of(1, (1,), NUMBERS, False, b"A" * 16),
    "a negative shape": array_of(1, (-1, -1), NUMBERS, False, b"A" * 8),
    "a giant shape": array_of(1, (2**62, 4), NUMBERS, False, b"A" * 8),
    "a list for bytes": array_of(1, (1,), NUMBERS, False, [1.0]),
    "an array of a state without dtype": array_of(1, (1,), "f8", False, b"A" * 8),
    "a subclass of array": called(numpy.zeros(1).__reduce__()[0], numpy.memmap, (0,), b"b"),
    "an array that is no blank": called(numpy.zeros(1).__reduce__()[0], numpy.ndarray, (9,), b"O"),
    "a factory": called(collections.defaultdict, os.getcwd),
    "a factory that is allowed": called(collections.defaultdict, set),
    "a factory of numbers": called(collections.defaultdict, int),
    "a filled default": called(collections.defaultdict, dict, {"a": 1}),
    "a dictionary": called(dict, [("a", 1)]),
    "a list": called(list, "ab"),
    "a number": called(int, "9" * 5000),
    "any": called(typing.Any),
    "options": called(argparse.Namespace, "a"),
    "a configuration": called(DictConfig, {"a": 1}),
    "a list configuration": called(ListConfig, [1]),
    "a node": called(nodes.AnyNode, "${oc.env:HOME}"),
    "metadata": called(base.Metadata, typing.Any, dict, True, "a"),
    "metadata of containers": called(base.ContainerMetadata, typing.Any, dict, True, "a"),
    "metadata with a function": blank_of(base.Metadata, {"object_type": torch.device}),
    "attributes beside the state": blank_of(argparse.Namespace, ({}, {"__class__": dict})),
    "a hidden method": blank_of(argparse.Namespace, {"_get_args": torch.device}),
    "an attribute of a configuration": blank_of(
        DictConfig, {"_metadata": METADATA, "_content": {}, "character_filters": TOUCH}
    ),
    "a configuration without metadata": blank_of(DictConfig, {"_content": {}}),
    "a node of a container": blank_of(nodes.AnyNode, {"_metadata": METADATA, "_val": 1}),
}


def write_pickle(path: Path, content: bytes, zipped: bool) -> None:
    """Writes a pickle where torch expects that of a checkpoint, in either format."""
    if zipped:
        torch.save({}, path)
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                archive.writestr(name, content if name.endswith("data.pkl") else data)
        return
    header = [serialization.MAGIC_NUMBER, serialization.PROTOCOL_VERSION, {"little_endian": True}]
    parts = [*(pickle.dumps(part, 2) for part in header), content, pickle.dumps([], 2)]
    path.write_bytes(b"".join(parts))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_calls_and_forged_states_are_refused(tmp_path, content, zipped):
    path = tmp_path / "checkpoint.pt"
    write_pickle(path, pickle.dumps({"model": {}}, 2), zipped)
    assert torch.load(path) == {"model": {}}
    for protocol in (2, 3, 4, 5):
        pickled = pickle.dumps({"extra_state": content, "model": {}}, protocol)
        # As the numpy of 2018 to 2024 names its function.
        pickled = pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        write_pickle(path, pickled, zipped)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path)
        with pytest.raises(pickle.UnpicklingError):
            checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not MARKER.exists()


def test_an_array_is_filled_once(tmp_path):
    pickled = pickle.dumps(numpy.zeros(3), 2)
    state = pickled[pickled.index(b"(K\x01") : -1]  # from the mark to the end, without STOP
    write_pickle(tmp_path / "checkpoint.pt", pickled[:-1] + state + b".", True)
    with pytest.raises(pickle.UnpicklingError, match="one state"):
        torch.load(tmp_path / "checkpoint.pt")


def test_no_allowed_name_builds_anything_of_random_arguments(tmp_path):
    choose = random.Random(1)
    names = [name_of(entry) for entry in (*configuration_classes(), *metric_classes())]
    values = [*names, "torch.device", "builtins.set", "_codecs.encode", "torch.Tensor"]
    path, built = tmp_path / "checkpoint.pt", set()
    for _ in range(1500):
        name, count = choose.choice(names), choose.randrange(4)
        arguments = b""
        for _ in range(count):
            kind = choose.randrange(5)
            if kind < 3:
                module, _, attribute = choose.choice(values).rpartition(".")
                arguments += f"c{module}\n{attribute}\n".encode()
            else:
                value = choose.choice([0, 2**40, "O", "f8", "a" * 8, (), (1,), [1], {"a": 1}, None])
                arguments += pickle.dumps(value, 2)[2:-1]
        module, _, attribute = name.rpartition(".")
        make = choose.choice([b"R", b"\x81"])  # REDUCE, NEWOBJ
        state = choose.choice([b"", b"}b", b"N\x85b", b"}}\x86b"])
        call = f"c{module}\n{attribute}\n(".encode() + arguments + b"t" + make + state
        write_pickle(path, b"\x80\x02" + call + b".", True)
        with contextlib.suppress(pickle.UnpicklingError, TypeError, AttributeError, KeyError):
            built.add((type(torch.load(path)).__name__, len(arguments)))
    made = {name for name, size in built if size}
    assert made <= {"NumberType", "NumberArray", "defaultdict"}, built
    assert {"Namespace", "AverageMeter"} <= {name for name, _ in built}


@pytest.mark.parametrize("code", ["i1", "<i8", ">i4", "u2", "f2", "<f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
def test_an_array_of_numbers_is_what_numpy_reads_and_is_saved_as_numpys(tmp_path, code, shape):
    values = numpy.asarray(numpy.random.default_rng(1).uniform(-9, 9, shape)).astype(code)
    for array in (values, numpy.asfortranarray(values)):
        torch.save({"counts": array}, tmp_path / "checkpoint.pt")
        (loaded,) = torch.load(tmp_path / "checkpoint.pt").values()
        expected = pickle.loads(pickle.dumps(array, 2))
        assert numpy.array_equal(loaded, array) and loaded.dtype == expected.dtype
        assert str(loaded.flags) == str(expected.flags)
        for protocol in (2, 3, 4, 5):
            assert type(pickle.loads(pickle.dumps(loaded, protocol))) is numpy.ndarray
        assert pickle.dumps(loaded, 2) == pickle.dumps(expected, 2)
        # Training goes on with it as with numpy's.
        meter = meters.AverageMeter()
        meter.load_state_dict({"val": loaded, "sum": loaded, "count": 1})
        meter.update(array)
        assert numpy.array_equal(meter.sum, array + array)


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
