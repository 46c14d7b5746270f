"""Says of any value what it is, the same in every process, so that runs can be told apart."""

from __future__ import annotations

import enum
import functools
import hashlib
import itertools
import json
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_SCALARS = (type(None), bool, int, float, str)
# Of modules: another in every process, or a matter of the generation that was last.
_NOT_OF_MODELS = ("_incremental_state_id", "beam_size")


def digest(value: Any) -> str:
    """A digest of what `describe` returns; see there."""
    return _digest(_json(describe(value)).encode())


def describe(value: Any) -> Any:
    """Returns JSON that is the same for equal values in any process, and another for others.

    Functions are told apart by their code, defaults and closures; other objects by what pickle
    would keep of them; modules by weights and plain attributes.

    Raises:
        ValueError: if there is something in `value` that cannot be told apart so.
    """
    try:
        return _describe(value, {})
    except RecursionError as error:
        raise ValueError(f"expected fewer levels in a {type(value).__name__}") from error


def as_text(name: str, value: Any) -> str:
    """Writes a setting for people, or its digest if it is none that they can read.

    Args:
        name: the name of the setting, for messages.
        value: any.

    Raises:
        ValueError: if there is something in `value` that cannot be told apart in another run.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if type(value) in _SCALARS:
        return str(value)
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):  # there are other things in it
        pass
    try:
        return digest(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def weights_digest(models: Iterable[nn.Module]) -> str:
    """A digest of all parameters and buffers: names, shapes, dtypes and values.

    fairseq's `_float_tensor` buffers are left out: they stand for a dtype and a device, and their
    values are never set.
    """
    total = hashlib.blake2b(digest_size=16)
    for model in models:
        for name, item in model.state_dict().items():
            if not name.endswith("_float_tensor"):
                text = tensor_digest(item) if isinstance(item, Tensor) else _json(describe(item))
                total.update(f"{name} {text} ".encode())
    return total.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """A digest of shape, dtype and values."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    values = tensor.cpu().contiguous().reshape(-1)
    total = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype} ".encode(), digest_size=16)
    total.update(values.view(torch.uint8).numpy().data)
    return total.hexdigest()


def plain_values(thing: object) -> dict[str, Any]:
    """Returns the attributes of an object that are plain: numbers, text, functions, lists of them.

    Returns:
        JSON by name; functions and dtypes by their names.
    """
    values = {name: _plain(value) for name, value in vars(thing).items()}
    return {name: value for name, value in values.items() if value is not ...}


def module_settings(model: nn.Module) -> dict[str, str]:
    """Describes what a model computes with its weights.

    Args:
        model: any; the plain attributes of all of its modules count.

    Returns:
        For each attribute its values, in the order of the modules; and a digest of their names,
        classes and hooks.
    """
    structure: list[tuple[str, ...]] = []
    values: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        structure.append((name, *map(_name, (type(module), *(_kind(hook) for hook in hooks)))))
        for attribute, value in sorted(plain_values(module).items()):
            if attribute not in _NOT_OF_MODELS:
                values.setdefault(attribute, []).append(_json(value))
    settings = {attribute: _runs(found) for attribute, found in values.items()}
    return {"modules": _digest(_json(structure).encode()), **settings}


def _describe(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    if isinstance(value, enum.Enum):
        return ["enum", _name(type(value)), value.name]
    if type(value) in _SCALARS:
        return value
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", _digest(bytes(value))]
    if isinstance(value, (type, torch.dtype, torch.device, types.BuiltinFunctionType)):
        return ["name", _name(value)]
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    seen[id(value)] = len(seen), value  # kept, so that no other gets its address

    def inner(item: Any) -> Any:
        return _describe(item, seen)

    if isinstance(value, Tensor):
        return ["tensor", tensor_digest(value)]
    if isinstance(value, nn.Module):
        return ["module", weights_digest([value]), module_settings(value)]
    if type(value) in (list, tuple):
        return [type(value).__name__, [inner(item) for item in value]]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((describe(item) for item in value), key=_json)]
    if type(value) is dict:
        items = [[describe(key), inner(item)] for key, item in value.items()]
        return ["dict", sorted(items, key=lambda item: _json(item[0]))]
    if isinstance(value, functools.partial):
        return ["partial", *map(inner, (value.func, value.args, value.keywords))]
    if isinstance(value, types.MethodType):
        return ["method", inner(value.__func__), inner(value.__self__)]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        kept = (value.__defaults__, value.__kwdefaults__, cells)
        return ["function", _name(value), inner(value.__code__), *map(inner, kept)]
    if isinstance(value, types.CodeType):
        return ["code", *map(inner, (value.co_code, value.co_consts, value.co_names))]
    return _described_object(value, inner)


def _described_object(value: Any, inner: Callable[[Any], Any]) -> Any:
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # as many kinds as there are classes
        kind = type(value).__name__
        raise ValueError(
            f"expected what can be told apart in another run, got a {kind} ({error})"
        ) from error
    if isinstance(reduced, str):
        return ["name", _name(type(value)), reduced]
    make, *rest = reduced  # arguments, state, and iterators of items
    kept = [list(part) if isinstance(part, Iterator) else part for part in rest]
    return ["object", _name(make), inner(kept)]


def _plain(value: Any) -> Any:
    """Returns a plain value as JSON, or `...` if it is none."""
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return ... if ... in items else items
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(tuple(value.keywords.items()))]
    if callable(value) and not isinstance(value, nn.Module) and hasattr(value, "__qualname__"):
        return _name(value)
    return ...


def _name(value: Any) -> str:
    # Text of a function holds its address, which is another in every run.
    name = getattr(value, "__qualname__", None)
    return str(value) if name is None else f"{getattr(value, '__module__', None)}.{name}"


def _kind(function: Any) -> Any:
    return function if hasattr(function, "__qualname__") else type(function)


def _runs(values: Iterable[str]) -> str:
    """Writes values with the number of times that each stands in a row."""
    runs = [(value, len(list(same))) for value, same in itertools.groupby(values)]
    return ", ".join(value if times == 1 else f"{times} x {value}" for value, times in runs)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
