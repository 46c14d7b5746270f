"""BART and its relatives: one decoder, in a few variants."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions, Seq2SeqLMOutput
from transformers.utils import ModelOutput

from el_attention.cost import Stack
from el_attention.decoder import (
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    OutputSpec,
    stored_weight,
    weight_dtype,
)
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.parts import (
    Kinds,
    affine,
    classes_beside,
    norm,
    optional_norm,
    unsupported_modules,
    unsupported_parts,
    unsupported_places,
)

LINEAR = (nn.Linear,)
NORM = (nn.LayerNorm,)


@dataclass(frozen=True)
class EncoderDecoder(Family):
    """A family whose decoder is BART's but for what is said here.

    Attributes:
        name: what its classes' names begin with.
        pre_norm: as in `LayerSpec`.
        positions_names: what the names of its classes of position embeddings end with.
        head: name of the module that makes logits.
        scales: whether the decoder scales token embeddings, and not their own class.
        norms_tokens: whether token embeddings are normalized before positions are added.
        masks_source: whether the decoder is told where the source is padding.
        skips_padding: whether tokens that are padding have no position, and do not count, where
            positions are sinusoidal.
        around: what the name of the class around its decoder ends with; None if nothing is.
        decoder_name: what the name of the class of its decoder ends with.
    """

    name: str
    pre_norm: bool
    positions_names: tuple[str, ...] = ("LearnedPositionalEmbedding",)
    head: str = "lm_head"
    scales: bool = False
    norms_tokens: bool = False
    masks_source: bool = True
    skips_padding: bool = False
    around: str | None = "Model"
    decoder_name: str = "Decoder"

    output: ClassVar[type[ModelOutput]] = Seq2SeqLMOutput

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what the decoder of `model` computes, or None."""
        beside = functools.partial(classes_beside, model)
        decoder = self._decoder(model)
        around: list[tuple[str, Any, Kinds]] = [(self.head, getattr(model, self.head), LINEAR)]
        if self.around is not None:
            around.append(("model", model.model, beside(f"{self.name}{self.around}")))
        reason = unsupported_modules(
            *around,
            ("decoder", decoder, beside(f"{self.name}{self.decoder_name}")),
        )
        if reason is not None:
            return reason
        layers = map(str, range(len(decoder.layers)))
        reason = unsupported_parts(
            decoder,
            {
                **dict.fromkeys(layers, beside(f"{self.name}DecoderLayer")),
                **dict.fromkeys(("self_attn", "encoder_attn"), beside(f"{self.name}Attention")),
                **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), LINEAR),
                **dict.fromkeys(
                    (
                        "self_attn_layer_norm",
                        "encoder_attn_layer_norm",
                        "final_layer_norm",
                        "layernorm_embedding",
                        "layer_norm",
                    ),
                    NORM,
                ),
                "layers": (nn.ModuleList,),
                "embed_tokens": (nn.Embedding, *beside(f"{self.name}ScaledWordEmbedding")),
                "embed_positions": beside(*(f"{self.name}{name}" for name in self.positions_names)),
                "activation_fn": None,
            },
        )
        return reason or unsupported_places(layer.self_attn.layer_idx for layer in decoder.layers)

    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes the decoder of a model that is not `unsupported`."""
        decoder = self._decoder(model)
        bias = getattr(model, "final_logits_bias", None)
        head = affine(getattr(model, self.head))
        return DecoderSpec(
            embedding=self._embedding(decoder),
            layers=tuple(self._layer(layer, has_source) for layer in decoder.layers),
            norm=optional_norm(getattr(decoder, "layer_norm", None)),
            output=OutputSpec(head, bias=None if bias is None else bias[0]),
        )

    def encoder(self, model: Any) -> Stack | None:
        """Returns the shapes of the encoder."""
        config = model.config
        return Stack(
            layers=config.encoder_layers,
            width=config.d_model,
            ffn=config.encoder_ffn_dim,
            heads=config.encoder_attention_heads,
        )

    def source(
        self, model: Any, states: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns what the decoder attends to of an encoder output."""
        return states, mask if self.masks_source else None

    def positions(self, model: Any, tokens: Tensor, past: int) -> Tensor | None:
        """Returns the positions of tokens, int64 [N, n], or None if they just follow."""
        table = self._decoder(model).embed_positions
        if not self._skips(table):
            return None
        counts = tokens.ne(table.padding_idx).long()
        # Padding has the row before that of position 0.
        return (counts.cumsum(1) + past) * counts - 1

    def can_have_source(self, model: Any) -> bool:
        """Returns whether the decoder has encoder-decoder attention."""
        return all(hasattr(layer, "encoder_attn") for layer in self._decoder(model).layers)

    def _decoder(self, model: Any) -> Any:
        return model.model if self.around is None else model.model.decoder

    def _skips(self, positions: Any) -> bool:
        return self.skips_padding and not isinstance(positions, nn.Embedding)

    def _embedding(self, decoder: Any) -> EmbeddingSpec:
        tokens, positions = decoder.embed_tokens, decoder.embed_positions
        normed = optional_norm(getattr(decoder, "layernorm_embedding", None))
        # The row of position 0.
        offset = getattr(positions, "offset", 0)
        return EmbeddingSpec(
            tokens=stored_weight(tokens),
            scale=decoder.embed_scale if self.scales else getattr(tokens, "embed_scale", 1.0),
            tokens_norm=normed if self.norms_tokens else None,
            positions=self._positions(positions, tokens),
            offset=positions.padding_idx + 1 if self._skips(positions) else offset,
            norm=None if self.norms_tokens else normed,
            dtype=weight_dtype(tokens),
        )

    def _positions(self, module: Any, tokens: Any) -> Any:
        """Returns what `EmbeddingSpec` has for positions, beside a module of token embeddings."""
        return module.weight if hasattr(module, "weight") else module.weights

    def _layer(self, layer: Any, has_source: bool) -> LayerSpec:
        return LayerSpec(
            pre_norm=self.pre_norm,
            self_attn=attention(layer.self_attn),
            self_attn_norm=norm(layer.self_attn_layer_norm),
            feed_forward=FeedForwardSpec(affine(layer.fc1), affine(layer.fc2), layer.activation_fn),
            feed_forward_norm=norm(layer.final_layer_norm),
            cross_attn=attention(layer.encoder_attn) if has_source else None,
            cross_attn_norm=norm(layer.encoder_attn_layer_norm) if has_source else None,
        )


class Speech2Text(EncoderDecoder):
    """Its encoder shortens what it is given."""

    def source(
        self, model: Any, states: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the encoder output, and where it is no padding."""
        if mask is not None:
            mask = model._get_feature_vector_attention_mask(states.size(1), mask)
        return states, mask

    def encoded(self, model: Any, length: int) -> int:
        """Returns how many states an encoder makes of frames."""
        return int(model._get_feat_extract_output_lengths(length))


class Whisper(EncoderDecoder):
    """Its encoder makes one state of two frames."""

    def encoded(self, model: Any, length: int) -> int:
        """Returns how many states an encoder makes of frames."""
        return length // 2


class PegasusX(EncoderDecoder):
    """Its encodings of positions lie in no table."""

    def _positions(self, module: Any, tokens: Any) -> Any:
        weight, dtype = stored_weight(tokens), weight_dtype(tokens)

        def encodings(positions: Tensor) -> Tensor:
            # It looks at the shape and dtype of embeddings [sentences, tokens, C] alone.
            flat = positions.flatten()
            like = weight.new_empty(1, dtype=dtype).expand(1, len(flat), weight.size(1))
            return module(like, position_ids=flat.unsqueeze(1))[0].view(*positions.shape, -1)

        return encodings


@dataclass(frozen=True)
class Decoder(EncoderDecoder):
    """The same decoder as a language model, by itself or beside an encoder of any kind."""

    around: str | None = "DecoderWrapper"

    output: ClassVar[type[ModelOutput]] = CausalLMOutputWithCrossAttentions

    def encoder(self, model: Any) -> None:
        """There is none."""


def attention(module: Any) -> AttentionSpec:
    """Describes an attention with projections of its own for query, key and value."""
    return AttentionSpec(
        heads=module.num_heads,
        query=affine(module.q_proj),
        key=affine(module.k_proj),
        value=affine(module.v_proj),
        output=affine(module.out_proj),
        scale=module.scaling,
    )
