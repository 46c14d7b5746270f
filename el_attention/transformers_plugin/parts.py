"""What the families share: specs of modules, and whether modules are what they seem."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from el_attention import plain
from el_attention.decoder import Affine, Norm, stored_weight
from el_attention.specialize import Specialized

Kinds = tuple[type[nn.Module], ...]

# Modules whose forward is an element-wise function, and which have no weights.
ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")


def stock_class(model: Any) -> type:
    """Returns the class of Transformers that a model is of, converted or not."""
    return model._base if isinstance(model, Specialized) else type(model)


def classes_beside(model: Any, *names: str) -> Kinds:
    """Returns those classes, by name, that are defined beside that of a model."""
    module = sys.modules[stock_class(model).__module__]
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


def unsupported_modules(*modules: tuple[str, nn.Module, Kinds]) -> str | None:
    """Returns which of some modules is not what it is expected to be, or None.

    Args:
        modules: a name to tell, the module, and the classes it may be of.
    """
    for name, module, kinds in modules:
        reason = plain.unsupported(module, kinds)
        if reason is not None:
            return f"{name} {reason}"
    return None


def unsupported_parts(module: nn.Module, parts: Mapping[str, Kinds | None]) -> str | None:
    """Returns which module below `module` is not what it is expected to be, or None.

    Args:
        module: any.
        parts: the classes by the last part of a module's name; None for an activation.
    """
    for name, part in module.named_modules():
        if part is module:
            continue
        last = name.rpartition(".")[2]
        if last not in parts:
            return f"{name} is not expected there"
        kinds = parts[last]
        reason = plain.unsupported(part, (type(part),) if kinds is None else kinds)
        if reason is None and kinds is None and type(part).__module__ not in ACTIVATIONS:
            reason = "is not one of the activations of Transformers"
        if reason is None and isinstance(part, nn.Embedding) and part.max_norm is not None:
            reason = "has a largest norm"
        if reason is not None:
            return f"{name} {reason}"
    return None


def unsupported_places(places: Iterable[int]) -> str | None:
    """Returns why some layers do not keep their states each in a place of its own, or None.

    Where a layer stands twice, Transformers keeps the states of both places in one.

    Args:
        places: where the layers keep their states, one after another.
    """
    found = list(places)
    if set(found) == set(range(len(found))):
        return None
    return f"its layers keep their states in the places {found}"


def affine(module: Any) -> Affine:
    """Describes an `nn.Linear`."""
    return Affine(stored_weight(module), module.bias)


def norm(module: Any) -> Norm:
    """Describes an `nn.LayerNorm`."""
    (width,) = module.normalized_shape
    return Norm(width, module.weight, module.bias, module.eps)


def optional_norm(module: Any) -> Norm | None:
    """Describes an `nn.LayerNorm` that need not be there."""
    return None if module is None else norm(module)
