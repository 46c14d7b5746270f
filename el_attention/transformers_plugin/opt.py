"""OPT: a language model with learned positions, which count what is not padding."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from el_attention.decoder import (
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    OutputSpec,
    stored_weight,
    weight_dtype,
)
from el_attention.transformers_plugin.encoder_decoder import LINEAR, NORM, attention
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.parts import (
    affine,
    classes_beside,
    norm,
    optional_norm,
    unsupported_modules,
    unsupported_parts,
    unsupported_places,
)


class OPT(Family):
    """See `Family`."""

    output: ClassVar[type[ModelOutput]] = CausalLMOutputWithPast

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what `model` computes, or None."""
        reason = unsupported_modules(
            ("model", model.model, classes_beside(model, "OPTModel")),
            ("decoder", model.model.decoder, classes_beside(model, "OPTDecoder")),
            ("lm_head", model.lm_head, LINEAR),
        )
        if reason is not None:
            return reason
        decoder = model.model.decoder
        numbers = map(str, range(len(decoder.layers)))
        projections = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
        reason = unsupported_parts(
            decoder,
            {
                **dict.fromkeys(numbers, classes_beside(model, "OPTDecoderLayer")),
                **dict.fromkeys((*projections, "project_in", "project_out"), LINEAR),
                **dict.fromkeys(("self_attn_layer_norm", "final_layer_norm"), NORM),
                "self_attn": classes_beside(model, "OPTAttention"),
                "layers": (nn.ModuleList,),
                "embed_tokens": (nn.Embedding,),
                "embed_positions": classes_beside(model, "OPTLearnedPositionalEmbedding"),
                "activation_fn": None,
            },
        )
        return reason or unsupported_places(layer.self_attn.layer_idx for layer in decoder.layers)

    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes a model that is not `unsupported`."""
        decoder = model.model.decoder
        into, out = decoder.project_in, decoder.project_out
        return DecoderSpec(
            embedding=EmbeddingSpec(
                tokens=stored_weight(decoder.embed_tokens),
                projections=() if into is None else (affine(into),),
                positions=decoder.embed_positions.weight,
                offset=decoder.embed_positions.offset,
                dtype=weight_dtype(decoder.embed_tokens),
            ),
            layers=tuple(
                LayerSpec(
                    pre_norm=layer.do_layer_norm_before,
                    self_attn=attention(layer.self_attn),
                    self_attn_norm=norm(layer.self_attn_layer_norm),
                    feed_forward=FeedForwardSpec(
                        affine(layer.fc1), affine(layer.fc2), layer.activation_fn
                    ),
                    feed_forward_norm=norm(layer.final_layer_norm),
                )
                for layer in decoder.layers
            ),
            norm=optional_norm(decoder.final_layer_norm),
            project_out=None if out is None else affine(out),
            output=OutputSpec(affine(model.lm_head)),
        )

    def can_have_source(self, model: Any) -> bool:
        """Returns whether the decoder has encoder-decoder attention: never."""
        return False
