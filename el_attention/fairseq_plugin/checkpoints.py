"""Lets torch's safe loader read fairseq checkpoints, and nothing else.

A class that torch allows may be called by a pickle, with any arguments.  So the names that
checkpoints hold are allowed here for substitutes, which take no free arguments, check the state
they are given and only then become objects of the class.
"""

from __future__ import annotations

import argparse
import collections
import math
import pickle
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy
import torch
from fairseq.logging import meters
from omegaconf import DictConfig, ListConfig, base, nodes

# What a pickle gets for a name.
Allowed = tuple[Any, str]


def allow_fairseq_checkpoints() -> None:
    """Allows what fairseq checkpoints of Transformers hold beside tensors: options and metrics.

    This is for the whole process, because fairseq reads a checkpoint before it asks a task or a
    model: nothing that is allowed here runs code of a checkpoint or builds objects from raw bytes.
    `torch.load` with `weights_only=True`, its default since torch 2.6, refuses everything else
    with an `UnpicklingError` that names it.
    """
    torch.serialization.add_safe_globals([*configuration_classes(), *metric_classes()])


def configuration_classes() -> list[Allowed]:
    """Returns plain and omegaconf containers of options, without behaviour."""
    containers = [argparse.Namespace, DictConfig, ListConfig, nodes.AnyNode]
    parts = [base.ContainerMetadata, base.Metadata]
    return [
        *((blank_class(kind), f"{kind.__module__}.{kind.__qualname__}") for kind in containers),
        *((blank_class(kind), f"{kind.__module__}.{kind.__qualname__}") for kind in parts),
        *((TypeName(kind), f"{kind.__module__}.{name}") for name, kind in TYPES.items()),
        (rebuild_defaultdict, "collections.defaultdict"),
    ]


def metric_classes() -> list[Allowed]:
    """Returns what checkpoints keep of the metrics of their training.

    `--eval-bleu` leaves n-gram counts in numpy arrays; fairseq up to 0.8 saved its meters whole.
    """
    kinds = [meters.AverageMeter, meters.StopwatchMeter, meters.TimeMeter]
    return [
        # numpy 2 moved the function; checkpoints name it as the numpy that wrote them did.
        (rebuild_array, "numpy.core.multiarray._reconstruct"),
        (rebuild_array, "numpy._core.multiarray._reconstruct"),
        (NumberArray, "numpy.ndarray"),
        (NumberType, "numpy.dtype"),
        *((blank_class(kind), f"fairseq.meters.{kind.__name__}") for kind in kinds),
    ]


@dataclass(frozen=True)
class TypeName:
    """A type that a pickle may name, but not call."""

    named: Any

    def __call__(self, *args: Any) -> Any:
        """Raises an UnpicklingError."""
        raise pickle.UnpicklingError(f"{self.named}: expected only its name, got a call")


# The types that omegaconf says its values have.
TYPES = {"dict": dict, "list": list, "int": int, "Any": typing.Any}

# What an omegaconf object consists of.
NODE_STATE = {"_metadata", "_parent", "_content", "_val", "_flags_cache"}


@cache
def blank_class(kind: type) -> type:
    """Returns a class whose objects take no arguments and become of a kind with their state."""

    class Blank(kind):
        __slots__ = ()

        def __new__(cls, *args: Any) -> Any:
            if args:
                _refuse(kind, "no arguments", args)
            return object.__new__(cls)

        def __init__(self) -> None:
            pass  # that of the kind may need arguments

        def __setstate__(self, state: Any) -> None:
            state = _checked(kind, state)
            object.__setattr__(self, "__class__", kind)
            if hasattr(kind, "__setstate__"):
                kind.__setstate__(self, state)
            else:
                self.__dict__.update(state)

    return Blank


def _checked(kind: type, state: Any) -> dict[str, Any]:
    if type(state) is not dict or not all(type(name) is str for name in state):
        _refuse(kind, "a dictionary of attributes", state)
    if issubclass(kind, base.Metadata):
        state = {name: _type_of(value) for name, value in state.items()}
    elif issubclass(kind, base.Node):
        expected = base.ContainerMetadata if issubclass(kind, base.Container) else base.Metadata
        if not state.keys() <= NODE_STATE:
            _refuse(kind, f"some of {sorted(NODE_STATE)}", state)
        if type(state.get("_metadata")) is not expected:
            _refuse(kind, f"a {expected.__name__}", state.get("_metadata"))
    for name in state:
        if callable(getattr(kind, name, None)):
            _refuse(kind, "attributes that hide no method", name)
    return state


def rebuild_defaultdict(*args: Any) -> collections.defaultdict[Any, Any]:
    """Returns an empty cache of omegaconf, whose factory is `dict` and no other callable."""
    if len(args) != 1 or args[0] not in (dict, TypeName(dict)):
        _refuse(collections.defaultdict, "the factory dict", args)
    return collections.defaultdict(dict)


class NumberType:
    """A numpy dtype in a checkpoint: integers or floats, without objects and fields."""

    CODES = frozenset(numpy.dtype(code).str[1:] for code in "bhilqBHILQefd")

    def __init__(self, *args: Any) -> None:
        code = args[0] if args else None
        if type(code) is not str or code not in self.CODES:
            _refuse(numpy.dtype, f"one of {sorted(self.CODES)}", code)
        self.dtype = numpy.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # Version, byte order, and what only dtypes of parts and fields have.
        if (
            type(state) is not tuple
            or len(state) < 5
            or state[1] not in ("<", ">", "|", "=")
            or state[2:5] != (None, None, None)
        ):
            _refuse(numpy.dtype, "a byte order, no fields", state)
        self.dtype = self.dtype.newbyteorder(cast(Any, state[1]))


class NumberArray(numpy.ndarray[Any, Any]):
    """A numpy array of a checkpoint; other programs save and read it as numpy's own."""

    filled = False

    def __new__(cls, *args: Any) -> NumberArray:
        """Returns an empty array.

        Raises:
            UnpicklingError: if there are arguments.
        """
        if args:
            _refuse(numpy.ndarray, "no arguments", args)
        # It does not own this memory: what refers to it stays valid when the array is filled.
        return super().__new__(cls, (0,), numpy.float64, NOTHING)

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            _refuse(numpy.ndarray, "(version, shape, dtype, order, bytes)", state)
        version, shape, kind, columns_first, content = state
        if self.filled:
            _refuse(numpy.ndarray, "one state", "another")
        if version != 1 or type(columns_first) is not bool:
            _refuse(numpy.ndarray, "version 1 and an order", (version, columns_first))
        if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            _refuse(numpy.ndarray, "a tuple of sizes", shape)
        if type(kind) is not NumberType:
            _refuse(numpy.ndarray, "a dtype of numbers", kind)
        expected = math.prod(shape) * kind.dtype.itemsize
        if type(content) is not bytes or len(content) != expected:
            _refuse(numpy.ndarray, f"{expected} bytes", content)
        super().__setstate__((1, shape, kind.dtype, columns_first, content))
        self.filled = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(numpy.ndarray).__reduce_ex__(protocol)


NOTHING = bytearray()


def rebuild_array(*args: Any) -> NumberArray:
    """Returns an array to be filled, in place of numpy's function of free type and shape."""
    if len(args) != 3 or args[0] is not NumberArray or args[1:] != ((0,), b"b"):
        _refuse(numpy.ndarray, "an empty array of bytes", args)
    return NumberArray()


def _type_of(value: Any) -> Any:
    if isinstance(value, TypeName):
        return value.named
    if callable(value) and value not in TYPES.values():
        _refuse(base.Metadata, f"one of the types {list(TYPES)}", value)
    return value


def _refuse(kind: Any, expected: str, found: object) -> typing.NoReturn:
    plain = type(found) in (str, int, bool)  # printing others might run their methods
    got = repr(found)[:200] if plain else f"a {type(found).__name__}"
    raise pickle.UnpicklingError(
        f"{kind.__module__}.{kind.__qualname__} in a checkpoint: expected {expected}, got {got}"
    )
