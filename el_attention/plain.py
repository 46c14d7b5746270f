"""Whether a module computes what its class does from its attributes, and nothing else."""

from __future__ import annotations

from typing import Any

from torch import nn


def unsupported(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """Returns why `module` may compute something else than `kinds` do, or None.

    Args:
        module: any.
        kinds: classes that compute the same; the first is the one to name.
    """
    if type(module) not in kinds:
        got, expected = type(module), kinds[0]
        if got.__name__ == expected.__name__:
            return f"is a {_qualified(got)}, expected a {_qualified(expected)}"
        return f"is a {got.__name__}, expected a {expected.__name__}"
    if "forward" in vars(module):
        return "has a forward of its own"
    if has_hooks(module):
        return "has hooks that may change its result"
    return None


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
    """Whether hooks of the module itself may change what it computes."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(getattr(hook, "__module__", None) not in HARMLESS_HOOKS for hook in hooks)
