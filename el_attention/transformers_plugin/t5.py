"""T5 and its relatives: biases by position, norms by the root mean square, no other biases."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import T5Config
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
    Norm,
    OutputSpec,
    PositionBias,
    stored_weight,
    weight_dtype,
)
from el_attention.transformers_plugin.encoder_decoder import LINEAR
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.parts import (
    Kinds,
    affine,
    classes_beside,
    unsupported_parts,
    unsupported_places,
)

# The layers of a block of the decoder.
LAYERS = ("LayerSelfAttention", "LayerCrossAttention", "LayerFF")


@dataclass(frozen=True)
class T5(Family):
    """See `Family`.

    Attributes:
        name: what its classes' names begin with.
        scales: whether its configuration may ask for a scaled output.
        shares_bias: whether all layers use the biases of the first one, and not each its own.
    """

    name: str
    scales: bool = True
    shares_bias: bool = True

    output: ClassVar[type[ModelOutput]] = Seq2SeqLMOutput

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what the decoder of `model` computes, or None."""
        if not hasattr(T5Config(), "scale_decoder_outputs"):
            return "this version of Transformers does not tell which outputs it scales"
        if model.dtype == torch.float16:
            return "in float16 its layers clamp what overflows"
        classes = functools.partial(self._classes, model)
        for name, module, expected in (
            ("lm_head", model.lm_head, LINEAR),
            ("decoder", model.decoder, classes("Stack")),
        ):
            reason = plain.unsupported(module, expected)
            if reason is not None:
                return f"{name} {reason}"
        layers = classes(*LAYERS)
        blocks = model.decoder.block
        numbers = map(str, range(max(len(blocks), len(layers))))
        reason = unsupported_parts(
            model.decoder,
            {
                **dict.fromkeys(numbers, (*classes("Block"), *layers)),
                **dict.fromkeys(("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"), LINEAR),
                **dict.fromkeys(("SelfAttention", "EncDecAttention"), classes("Attention")),
                **dict.fromkeys(("layer_norm", "final_layer_norm"), classes("LayerNorm")),
                **dict.fromkeys(("embed_tokens", "relative_attention_bias"), (nn.Embedding,)),
                **dict.fromkeys(("block", "layer"), (nn.ModuleList,)),
                "DenseReluDense": classes("DenseActDense", "DenseGatedActDense"),
                "dropout": (nn.Dropout,),
                "act": None,
            },
        )
        if reason is None and any(tuple(map(type, block.layer)) != layers for block in blocks):
            reason = f"its blocks are not made of {', '.join(kind.__name__ for kind in layers)}"
        if reason is None:
            reason = unsupported_places(block.layer[0].SelfAttention.layer_idx for block in blocks)
        return reason

    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes the decoder of a model that is not `unsupported`."""
        decoder, scale = model.decoder, 1.0
        if self.scales and model.config.scale_decoder_outputs:
            scale = model.config.d_model**-0.5
        bias: PositionBias | None = None
        layers: list[LayerSpec] = []
        for block in decoder.block:
            self_attn, cross_attn, feed_forward = block.layer
            if not (layers and self.shares_bias):
                bias = _position_bias(self_attn.SelfAttention)
            layers.append(_layer(self_attn, cross_attn if has_source else None, feed_forward, bias))
        return DecoderSpec(
            embedding=EmbeddingSpec(
                stored_weight(decoder.embed_tokens), dtype=weight_dtype(decoder.embed_tokens)
            ),
            layers=tuple(layers),
            norm=_norm(decoder.final_layer_norm),
            output=OutputSpec(affine(model.lm_head), scale),
        )

    def encoder(self, model: Any) -> Stack:
        """Returns the shapes of the encoder."""
        config = model.config
        return Stack(config.num_layers, config.d_model, config.d_ff, config.num_heads)

    def _classes(self, model: Any, *names: str) -> Kinds:
        return classes_beside(model, *(f"{self.name}{name}" for name in names))


def _layer(
    self_attn: Any,
    cross_attn: Any | None,
    feed_forward: Any,
    bias: PositionBias | None,
) -> LayerSpec:
    dense = feed_forward.DenseReluDense
    gated = hasattr(dense, "wi_0")
    return LayerSpec(
        pre_norm=True,
        self_attn=_attention(self_attn.SelfAttention, bias),
        self_attn_norm=_norm(self_attn.layer_norm),
        cross_attn=None if cross_attn is None else _attention(cross_attn.EncDecAttention),
        cross_attn_norm=None if cross_attn is None else _norm(cross_attn.layer_norm),
        feed_forward=FeedForwardSpec(
            up=affine(dense.wi_1 if gated else dense.wi),
            down=affine(dense.wo),
            activation=dense.act,
            gate=affine(dense.wi_0) if gated else None,
        ),
        feed_forward_norm=_norm(feed_forward.layer_norm),
    )


def _attention(module: Any, bias: PositionBias | None = None) -> AttentionSpec:
    return AttentionSpec(
        heads=module.n_heads,
        query=affine(module.q),
        key=affine(module.k),
        value=affine(module.v),
        output=affine(module.o),
        scale=1.0,
        position_bias=bias,
    )


def _norm(module: Any) -> Norm:
    weight = module.weight
    return Norm(len(weight), weight, None, module.variance_epsilon, rms=True)


def _position_bias(module: Any) -> PositionBias | None:
    """Describes the table of an attention, if any, by distance in place of buckets."""
    if not module.has_relative_attention_bias:
        return None
    table, farthest = module.relative_attention_bias.weight, module.relative_attention_max_distance
    buckets, exact = len(table), len(table) // 2
    # Half of the buckets have one distance each; those of the others grow by a factor.
    distance = torch.arange(farthest + 1, device=table.device)
    share = torch.log(distance.float() / exact) / math.log(farthest / exact)
    bucket = exact + (share * (buckets - exact)).long()
    bucket = torch.where(distance < exact, distance, bucket).clamp(max=buckets - 1)
    return PositionBias(table[bucket])
