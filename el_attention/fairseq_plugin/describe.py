"""Describes fairseq's Transformer decoder to the runtime, by its own tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from fairseq.modules import (
    FairseqDropout,
    LayerDropModuleList,
    LearnedPositionalEmbedding,
    MultiheadAttention,
    SinusoidalPositionalEmbedding,
)
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from el_attention import plain
from el_attention.decoder import (
    Affine,
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    Norm,
    OutputSpec,
    stored_weight,
    weight_dtype,
)
from el_attention.fairseq_plugin.attention import ELAttention
from el_attention.fairseq_plugin.attention_step import acts, sinks_of
from el_attention.specialize import specialized_class

if TYPE_CHECKING:
    from el_attention.fairseq_plugin.decoder import ELDecoder

Kinds = tuple[type[nn.Module], ...]

LINEAR: Kinds = (nn.Linear,)
NORM: Kinds = (nn.LayerNorm,)
ATTENTION: Kinds = (MultiheadAttention, specialized_class(ELAttention, MultiheadAttention))
POSITIONS: Kinds = (LearnedPositionalEmbedding, SinusoidalPositionalEmbedding)

# What the modules around the layers are expected to be.
PARTS: dict[str, Kinds] = {
    "embed_tokens": (nn.Embedding,),
    "embed_positions": POSITIONS,
    "quant_noise": LINEAR,
    "project_in_dim": LINEAR,
    "project_out_dim": LINEAR,
    "layernorm_embedding": NORM,
    "layer_norm": NORM,
    "dropout_module": (FairseqDropout,),
}
# The same in a layer, by the last part of their names.
LAYER_PARTS: dict[str, Kinds] = {
    **dict.fromkeys(("self_attn", "encoder_attn"), ATTENTION),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), LINEAR),
    **dict.fromkeys(("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"), NORM),
    **dict.fromkeys(("dropout_module", "activation_dropout_module"), (FairseqDropout,)),
}


def unsupported(decoder: ELDecoder) -> str | None:
    """Returns why a spec would not say what `decoder` computes, or None if it does."""
    if decoder.training:
        return "it is in training"
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return "there are hooks on all modules"
    if not decoder.el_is_plain("extract_features", "extract_features_scriptable"):
        return f"{type(decoder)._base.__name__} computes features in its own way"
    if type(decoder.layers) not in (nn.ModuleList, LayerDropModuleList):
        return f"its layers are a {type(decoder.layers).__name__}"
    for name, kinds in PARTS.items():
        module = getattr(decoder, name, None)
        reason = None if module is None else _part(module, kinds)
        if reason is not None:
            return f"{name} {reason}"
    if decoder.embed_tokens.max_norm is not None:
        return "embed_tokens has a largest norm"
    if decoder.embed_positions is not None and decoder.embed_positions.padding_idx is None:
        return "embed_positions has no index of padding"
    for index, layer in enumerate(layers_of(decoder)):
        reason = unsupported_layer(layer)
        if reason is not None:
            return f"layer {index}: {reason}"
    return None


def unsupported_layer(layer: Any) -> str | None:
    """Returns why a spec would not say what a layer of a decoder computes, or None if it does."""
    forward = getattr(type(layer), "forward", None)
    if forward is not TransformerDecoderLayerBase.forward:
        return f"{type(layer).__name__} has another forward"
    if "forward" in vars(layer) or plain.has_hooks(layer):
        return "it has a forward of its own, or hooks"
    adds = getattr(layer.residual_connection, "__func__", None)
    if adds is not TransformerDecoderLayerBase.residual_connection:
        return "it adds residuals in its own way"
    if layer.training or layer.onnx_trace:
        return "it is in training or traced"
    for name, _ in layer.named_parameters(recurse=False):
        return f"it has a {name}"
    for name, module in layer.named_modules():
        if module is layer:
            continue
        kinds = LAYER_PARTS.get(name.rpartition(".")[2])
        reason = "is not fairseq's" if kinds is None else _part(module, kinds)
        if reason is not None:
            return f"{name} {reason}"
    for name in ("self_attn", "encoder_attn"):
        attention = getattr(layer, name)
        if attention is not None:
            reason = attention.unsupported(weight_dtype(layer.fc1))
            if reason is not None:
                return f"{name}: {reason}"
    return None


def spec_of(decoder: ELDecoder, with_source: bool) -> DecoderSpec:
    """Describes a decoder that is not `unsupported`.

    Args:
        decoder: a decoder of the Transformer's.
        with_source: whether there is an encoder output; fairseq's layers attend to none without.
    """
    described: dict[nn.Module, AttentionSpec] = {}  # layers may share them
    return DecoderSpec(
        embedding=embedding_of(decoder),
        layers=tuple(_layer(layer, with_source, described) for layer in layers_of(decoder)),
        norm=_norm(decoder.layer_norm),
        project_out=_affine(decoder.project_out_dim),
        output=output_of(decoder),
    )


def embedding_of(decoder: ELDecoder, positions: int = 0) -> EmbeddingSpec:
    """Describes the embeddings.

    Args:
        decoder: a decoder of the Transformer's.
        positions: how many a sinusoidal table is to have at least.
    """
    before = (decoder.quant_noise, decoder.project_in_dim)
    module = decoder.embed_positions
    offset = 0 if module is None else module.padding_idx + 1
    tokens, dtype = stored_weight(decoder.embed_tokens), weight_dtype(decoder.embed_tokens)
    table = None if module is None else _table(module, tokens.device, dtype, positions)
    return EmbeddingSpec(
        tokens=tokens,
        scale=decoder.embed_scale,
        projections=tuple(affine for part in before if (affine := _affine(part)) is not None),
        positions=table,
        offset=offset,
        norm=_norm(decoder.layernorm_embedding),
        dtype=dtype,
    )


def layers_of(decoder: Any) -> list[Any]:
    """The layers, without the random numbers that iterating over `LayerDropModuleList` draws."""
    return list(decoder.layers._modules.values())


def _part(module: nn.Module, kinds: Kinds) -> str | None:
    reason = plain.unsupported(module, kinds)
    if reason is None and isinstance(module, FairseqDropout) and acts(module):
        return "acts"
    return reason


def _table(module: Any, device: torch.device, dtype: torch.dtype, positions: int) -> Tensor:
    """The embeddings of positions, [rows, C]."""
    if isinstance(module, LearnedPositionalEmbedding):
        return module.weight
    table, rows = module.weights, module.padding_idx + 1 + positions
    if table is None or len(table) < rows:
        # Twice as many, because a longer one is asked for when a position is beyond it.
        table = SinusoidalPositionalEmbedding.get_embedding(
            2 * rows, module.embedding_dim, module.padding_idx
        )
    result: Tensor = table.to(device, dtype)
    return result


def _layer(layer: Any, with_source: bool, described: dict[nn.Module, AttentionSpec]) -> LayerSpec:
    cross_attn, cross_attn_norm = None, None
    if with_source and layer.encoder_attn is not None:
        cross_attn = _attention(layer.encoder_attn, described)
        cross_attn_norm = _required_norm(layer.encoder_attn_layer_norm)
    return LayerSpec(
        pre_norm=layer.normalize_before,
        self_attn=_attention(layer.self_attn, described),
        self_attn_norm=_required_norm(layer.self_attn_layer_norm),
        feed_forward=FeedForwardSpec(
            _required_affine(layer.fc1), _required_affine(layer.fc2), layer.activation_fn
        ),
        feed_forward_norm=_required_norm(layer.final_layer_norm),
        cross_attn=cross_attn,
        cross_attn_norm=cross_attn_norm,
    )


def _attention(module: ELAttention, described: dict[nn.Module, AttentionSpec]) -> AttentionSpec:
    if module not in described:
        described[module] = AttentionSpec(
            heads=module.num_heads,
            query=_required_affine(module.q_proj),
            key=_required_affine(module.k_proj),
            value=_required_affine(module.v_proj),
            output=_required_affine(module.out_proj),
            scale=module.scaling,
            sinks=sinks_of(module),
        )
    return described[module]


def output_of(decoder: ELDecoder) -> OutputSpec | None:
    """Describes the output, or returns None where `output_layer` must be called."""
    projection = decoder.output_projection
    if decoder.adaptive_softmax is not None or not decoder.el_is_plain("output_layer"):
        return None
    if plain.unsupported(projection, LINEAR) is not None:
        return None
    return OutputSpec(_required_affine(projection))


def _required_affine(module: nn.Linear) -> Affine:
    return Affine(stored_weight(module), module.bias)


def _affine(module: nn.Linear | None) -> Affine | None:
    return None if module is None else _required_affine(module)


def _required_norm(module: nn.LayerNorm) -> Norm:
    (width,) = module.normalized_shape
    return Norm(width, module.weight, module.bias, module.eps)


def _norm(module: nn.LayerNorm | None) -> Norm | None:
    return None if module is None else _required_norm(module)
