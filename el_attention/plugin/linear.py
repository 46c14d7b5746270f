"""The linear layers of a decoder, in a generation by an operator of this package."""

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


LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, specialized_class(ELLinear, nn.Linear))
