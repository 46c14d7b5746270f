"""Whether a module computes what its class does from its attributes, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from el_attention.decoder import FreedModule

# What every module has, beside its parts; none of it computes anything.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def unsupported(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """Returns why `module` may compute something else than `kinds` do, or None.

    Args:
        module: any.
        kinds: classes that compute the same; the first is the one to name.
    """
    kind = module._base if isinstance(module, FreedModule) else type(module)
    if kind not in kinds:
        got, expected = kind, kinds[0]
        if got.__name__ == expected.__name__:
            return f"is a {_qualified(got)}, expected a {_qualified(expected)}"
        return f"is a {got.__name__}, expected a {expected.__name__}"
    if _has_replaced_forward(type(module)):
        return f"is a {type(module).__name__}, whose forward was replaced"
    replaced = own_method(module)
    if replaced is not None:
        return f"has a {replaced} of its own"
    if has_hooks(module):
        return "has hooks that may change its result"
    for name, parameter in module._parameters.items():
        if parameter is not None and not _is_plain(parameter):
            return f"has a {name} that is a {type(parameter).__name__} of {parameter.layout}"
    return None


def own_method(module: nn.Module) -> str | None:
    """Returns the name of a method that an object has in place of that of its class, or None.

    Those that every module has, but for `forward`, compute nothing.
    """
    for name in vars(module):
        if name in _OF_EVERY_MODULE or not callable(getattr(type(module), name, None)):
            continue
        if name == "forward" or not hasattr(nn.Module, name):
            return name
    return None


def _has_replaced_forward(kind: type[nn.Module]) -> bool:
    """Whether the forward of a class was defined elsewhere than the class that has it."""
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    return getattr(vars(owner)["forward"], "__module__", None) != owner.__module__


def _is_plain(tensor: Tensor) -> bool:
    """Whether operators read a tensor as the numbers in its memory, and not in a way of its own."""
    return type(tensor) in (nn.Parameter, Tensor) and tensor.layout == torch.strided


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def original(module: Any) -> Any:
    """Returns what `torch.compile` or a wrapper for several devices has wrapped, or `module`."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return original(module.module)
    return getattr(module, "_orig_mod", module)


# Quantization noise acts in training only; recorders of outputs, which a model of Transformers has
# once it was asked for attention weights, return nothing.
HARMLESS_HOOKS = ("fairseq.modules.quant_noise", "transformers.utils.output_capturing")


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks of the module itself, or of all modules, may change what it computes."""
    hooks = (
        *everywhere._global_forward_pre_hooks.values(),
        *everywhere._global_forward_hooks.values(),
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
    )
    return any(getattr(hook, "__module__", None) not in HARMLESS_HOOKS for hook in hooks)
