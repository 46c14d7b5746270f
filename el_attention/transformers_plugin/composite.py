"""EncoderDecoderModel and its kin: an encoder of any kind beside a decoder of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from el_attention import plain
from el_attention.cost import Stack
from el_attention.decoder import DecoderSpec
from el_attention.transformers_plugin.family import Family


@dataclass(frozen=True)
class Composite(Family):
    """Two models in one.

    Attributes:
        decoder: the family of the decoder.
    """

    decoder: Family

    output: ClassVar[type[ModelOutput]] = Seq2SeqLMOutput
    has_own_encoder: ClassVar[bool] = False

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what the decoder of `model` computes, or None."""
        if "forward" in vars(model.decoder) or plain.has_hooks(model.decoder):
            return "decoder has a forward of its own, or hooks"
        if not self.decoder.can_have_source(model.decoder):
            return "decoder has no encoder-decoder attention"
        return self.decoder.unsupported(model.decoder)

    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes the decoder of a model that is not `unsupported`."""
        return self.decoder.describe(model.decoder, has_source)

    def encoder(self, model: Any) -> Stack | None:
        """Returns shapes as of the decoder: of the encoder, plans depend on the width alone."""
        layers = self.describe(model, has_source=True).layers
        source = layers[0].cross_attn
        assert source is not None
        return Stack(
            layers=len(layers),
            width=source.key.inputs,
            ffn=layers[0].feed_forward.up.outputs,
            heads=source.heads,
        )

    def source(
        self, model: Any, states: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the encoder output, projected if the decoder is of another width."""
        config, width = model.decoder.config, self._width(model)
        if (
            width != config.hidden_size
            and getattr(config, "cross_attention_hidden_size", None) is None
        ):
            states = model.enc_to_dec_proj(states)
        return states, mask

    def positions(self, model: Any, tokens: Tensor, past: int) -> Tensor | None:
        """Returns the positions of tokens, int64 [N, n], or None if they just follow."""
        return self.decoder.positions(model.decoder, tokens, past)

    def _width(self, model: Any) -> int:
        """Returns the width of the encoder output."""
        width: int = model.encoder.config.hidden_size
        return width


class VisionComposite(Composite):
    """The decoder sees all of an image."""

    def source(self, model: Any, states: Tensor, mask: Tensor | None) -> tuple[Tensor, None]:
        """Returns the encoder output, projected if the decoder is of another width."""
        return super().source(model, states, None)[0], None


class SpeechComposite(Composite):
    """The encoder shortens what it is given."""

    def source(
        self, model: Any, states: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the encoder output, projected likewise, and where it is no padding."""
        if mask is not None:
            mask = model.encoder._get_feature_vector_attention_mask(states.size(1), mask)
        return super().source(model, states, mask)

    def _width(self, model: Any) -> int:
        width: int = model.encoder_output_dim
        return width
