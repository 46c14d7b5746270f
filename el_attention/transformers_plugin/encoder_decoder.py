"""BART and its relatives: one decoder, in a few variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from el_attention import plain
from el_attention.cost import Stack
from el_attention.decoder import (
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    OutputSpec,
)
from el_attention.transformers_plugin.parts import (
    affine,
    classes_of,
    norm,
    optional_norm,
    unsupported_parts,
)

LINEAR = (nn.Linear,)
NORM = (nn.LayerNorm,)


@dataclass(frozen=True)
class EncoderDecoder:
    """A family whose decoder is BART's but for what is said here.

    Attributes:
        name: what its classes' names begin with.
        pre_norm: as in `LayerSpec`.
        positions_name: what the name of its class of position embeddings ends with.
        offset: the row of position 0.
        scales: whether the decoder scales token embeddings, and not their own class.
        skips_padding: whether tokens that are padding have no position, and do not count.
    """

    name: str
    pre_norm: bool
    positions_name: str = "LearnedPositionalEmbedding"
    offset: int = 0
    scales: bool = False
    skips_padding: bool = False

    output: ClassVar[type[ModelOutput]] = Seq2SeqLMOutput

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what the decoder of `model` computes, or None."""
        base = type(model)._base
        kinds = {
            name: classes_of(base, f"{self.name}{name}")
            for name in ("Model", "Decoder", "DecoderLayer", "Attention", self.positions_name)
        }
        embedding = () if self.scales else classes_of(base, f"{self.name}ScaledWordEmbedding")
        around = (
            ("model", model.model, kinds["Model"]),
            ("lm_head", model.lm_head, LINEAR),
            ("decoder", model.model.decoder, kinds["Decoder"]),
        )
        for name, module, expected in around:
            reason = plain.obstacle(module, expected)
            if reason is not None:
                return f"{name} {reason}"
        layers = dict.fromkeys(map(str, range(len(model.model.decoder.layers))))
        return unsupported_parts(
            model.model.decoder,
            {
                **dict.fromkeys(layers, kinds["DecoderLayer"]),
                **dict.fromkeys(("self_attn", "encoder_attn"), kinds["Attention"]),
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
                "embed_tokens": (*embedding, nn.Embedding),
                "embed_positions": kinds[self.positions_name],
                "activation_fn": None,
            },
        )

    def describe(self, model: Any) -> DecoderSpec:
        """Describes the decoder of a model that is not `unsupported`."""
        decoder = model.model.decoder
        bias = getattr(model, "final_logits_bias", None)
        return DecoderSpec(
            embedding=self._embedding(decoder),
            layers=tuple(self._layer(layer) for layer in decoder.layers),
            norm=optional_norm(getattr(decoder, "layer_norm", None)),
            output=OutputSpec(affine(model.lm_head), bias=None if bias is None else bias[0]),
        )

    def encoder(self, model: Any) -> Stack:
        """Returns the shapes of the encoder."""
        config = model.config
        return Stack(
            layers=config.encoder_layers,
            width=config.d_model,
            ffn=config.encoder_ffn_dim,
            heads=config.encoder_attention_heads,
        )

    def positions(self, model: Any, tokens: Tensor, past: int) -> Tensor | None:
        """Returns the positions of tokens, int64 [N, n], or None if they just follow."""
        if not self.skips_padding:
            return None
        counts = tokens.ne(model.model.decoder.embed_positions.padding_idx).long()
        # Padding has the row before that of position 0.
        return (counts.cumsum(1) + past) * counts - 1

    def _embedding(self, decoder: Any) -> EmbeddingSpec:
        tokens, positions = decoder.embed_tokens, decoder.embed_positions
        skips = self.skips_padding
        return EmbeddingSpec(
            tokens=tokens.weight,
            scale=decoder.embed_scale if self.scales else getattr(tokens, "embed_scale", 1.0),
            positions=positions.weights if skips else positions.weight,
            offset=positions.padding_idx + 1 if skips else self.offset,
            norm=optional_norm(getattr(decoder, "layernorm_embedding", None)),
        )

    def _layer(self, layer: Any) -> LayerSpec:
        return LayerSpec(
            pre_norm=self.pre_norm,
            self_attn=attention(layer.self_attn),
            self_attn_norm=norm(layer.self_attn_layer_norm),
            feed_forward=FeedForwardSpec(affine(layer.fc1), affine(layer.fc2), layer.activation_fn),
            feed_forward_norm=norm(layer.final_layer_norm),
            cross_attn=attention(layer.encoder_attn),
            cross_attn_norm=norm(layer.encoder_attn_layer_norm),
        )


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
