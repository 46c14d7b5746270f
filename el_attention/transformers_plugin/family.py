"""What a family of models says of itself."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers.utils import ModelOutput

from el_attention.cost import Stack
from el_attention.decoder import DecoderSpec


class Family(Protocol):
    """Models of one class of Transformers.

    Attributes:
        output: what their forward returns.
    """

    output: ClassVar[type[ModelOutput]]

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what the decoder of `model` computes, or None."""

    def describe(self, model: Any) -> DecoderSpec:
        """Describes the decoder of a model that is not `unsupported`."""

    def encoder(self, model: Any) -> Stack | None:
        """Returns the shapes of the encoder, or None without one."""

    def positions(self, model: Any, tokens: Tensor, past: int) -> Tensor | None:
        """Returns the positions of tokens where not all of one time have the same.

        Args:
            model: of the family.
            tokens: int64 [N, n], the newest ones.
            past: number of tokens before them.

        Returns:
            int64 [N, n], or None for past, past + 1, ...
        """
