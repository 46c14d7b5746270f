"""What a family of models says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor
from transformers.utils import ModelOutput

from el_attention.cost import Architecture, Stack
from el_attention.decoder import DecoderSpec


class Family(ABC):
    """Models of one class of Transformers, or of several that differ in sizes only.

    Attributes:
        output: what their forward returns.
        has_own_encoder: whether an encoder, if any, is one of the family, and not of any kind.
    """

    output: ClassVar[type[ModelOutput]]
    has_own_encoder: ClassVar[bool] = True

    @abstractmethod
    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what the decoder of `model` computes, or None."""

    @abstractmethod
    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes the decoder of a model that is not `unsupported`.

        Args:
            model: the model of the family.
            has_source: whether it attends to an encoder output in this run.
        """

    def can_have_source(self, model: Any) -> bool:
        """Returns whether the decoder has encoder-decoder attention."""
        return True

    def encoder(self, model: Any) -> Stack | None:
        """Returns the shapes of the encoder, or None without one."""
        return None

    def source(
        self, model: Any, states: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns what the decoder attends to of an encoder output: here, all that is no padding.

        Args:
            model: the model of the family.
            states: [sentences, S, K'], the encoder output.
            mask: the attention mask of the encoder's input, zero at padding; or None.

        Returns:
            States [sentences, S, K] and a mask [sentences, S], or None where nothing is padding.
        """
        return states, mask

    def encoded(self, model: Any, length: int) -> int:
        """Returns how many states an encoder makes of a source of some length.

        Args:
            model: the model of the family.
            length: the number of tokens, or of frames of 10 ms.
        """
        return length

    def positions(self, model: Any, tokens: Tensor, past: int) -> Tensor | None:
        """Returns the positions of tokens where not all of one time have the same.

        Args:
            model: the model of the family.
            tokens: int64 [N, n], the newest ones.
            past: number of tokens before them.

        Returns:
            int64 [N, n], or None for past, past + 1, ...
        """
        return None


def architecture_of(model: Any, family: Family, spec: DecoderSpec) -> Architecture:
    """Returns the shapes of a model of a family; those of its first layer stand for all."""
    layer = spec.layers[0]
    decoder = Stack(
        layers=len(spec.layers),
        width=spec.embedding.width,
        ffn=layer.feed_forward.up.outputs,
        heads=layer.self_attn.heads,
    )
    return Architecture(
        name=type(model).__name__,
        decoder=decoder,
        encoder=family.encoder(model),
        vocabulary=len(spec.embedding.tokens),
    )
