"""The linear layers of a decoder, faster for few rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from el_attention.ops import linear
from el_attention.plugin.specialize import Specialized, specialized_class


@dataclass
class Mode:
    """What a decoder does, for its linear layers.

    Attributes:
        generating: whether it takes steps of a generation; scoring is fairseq's to the last bit.
    """

    generating: bool = False


class ELLinear(Specialized, nn.Linear):
    """A linear layer that goes through `el_attention.ops.linear` in a generation.

    Attributes:
        el_mode: of the decoder it belongs to.
    """

    el_mode: Mode

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            input: [..., in_features].

        Returns:
            [..., out_features].
        """
        if self.el_mode.generating:
            return linear(input, self.weight, self.bias)
        return super().forward(input)


def obstacle(layer: nn.Module) -> str | None:
    """Returns why `layer` may compute something else than its weight and bias do, or None.

    Args:
        layer: what should be a linear layer.
    """
    if type(layer) not in (nn.Linear, specialized_class(ELLinear, nn.Linear)):
        return f"is a {type(layer).__name__}, expected a Linear"
    if "forward" in vars(layer):
        return "has a forward of its own"
    if _has_hooks(layer):
        return "has hooks that may change its result"
    return None


def _has_hooks(layer: nn.Module) -> bool:
    # Quantization noise acts in training only; any other hook may change what the layer computes.
    before = [
        hook
        for hook in layer._forward_pre_hooks.values()
        if getattr(hook, "__module__", None) != "fairseq.modules.quant_noise"
    ]
    return bool(before or layer._forward_hooks)
