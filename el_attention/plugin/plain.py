"""Whether a module computes what its class does from its attributes, and nothing else."""

from __future__ import annotations

from torch import nn


def obstacle(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """Returns why `module` may compute something else than `kinds` do, or None.

    Args:
        module: any.
        kinds: classes that compute the same; the first is the one to name.
    """
    if type(module) not in kinds:
        return f"is a {type(module).__name__}, expected a {kinds[0].__name__}"
    if "forward" in vars(module):
        return "has a forward of its own"
    if _has_hooks(module):
        return "has hooks that may change its result"
    return None


def _has_hooks(module: nn.Module) -> bool:
    # Quantization noise acts in training only; any other hook may change what the module computes.
    before = [
        hook
        for hook in module._forward_pre_hooks.values()
        if getattr(hook, "__module__", None) != "fairseq.modules.quant_noise"
    ]
    return bool(before or module._forward_hooks)
