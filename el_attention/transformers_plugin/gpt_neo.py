"""GPT-Neo: scores are not scaled, and every other layer sees the nearest tokens only."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from el_attention.decoder import (
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    OutputSpec,
    PositionBias,
    stored_weight,
    weight_dtype,
)
from el_attention.transformers_plugin.encoder_decoder import LINEAR, NORM
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.parts import (
    affine,
    classes_beside,
    norm,
    unsupported_modules,
    unsupported_parts,
    unsupported_places,
)


class GPTNeo(Family):
    """See `Family`."""

    output: ClassVar[type[ModelOutput]] = CausalLMOutputWithPast

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what `model` computes, or None."""
        reason = unsupported_modules(
            ("transformer", model.transformer, classes_beside(model, "GPTNeoModel")),
            ("lm_head", model.lm_head, LINEAR),
        )
        if reason is not None:
            return reason
        numbers = map(str, range(len(model.transformer.h)))
        projections = ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj")
        dropouts = ("drop", "dropout", "attn_dropout", "resid_dropout")
        reason = unsupported_parts(
            model.transformer,
            {
                **dict.fromkeys(numbers, classes_beside(model, "GPTNeoBlock")),
                **dict.fromkeys(projections, LINEAR),
                **dict.fromkeys(("ln_1", "ln_2", "ln_f"), NORM),
                **dict.fromkeys(("wte", "wpe"), (nn.Embedding,)),
                **dict.fromkeys(dropouts, (nn.Dropout,)),
                "attn": classes_beside(model, "GPTNeoAttention"),
                "attention": classes_beside(model, "GPTNeoSelfAttention"),
                "mlp": classes_beside(model, "GPTNeoMLP"),
                "h": (nn.ModuleList,),
                "act": None,
            },
        )
        places = (block.attn.attention.layer_id for block in model.transformer.h)
        return reason or unsupported_places(places)

    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes a model that is not `unsupported`."""
        decoder, windows = model.transformer, dict[int, PositionBias]()
        return DecoderSpec(
            embedding=EmbeddingSpec(
                tokens=stored_weight(decoder.wte),
                positions=decoder.wpe.weight,
                dtype=weight_dtype(decoder.wte),
            ),
            layers=tuple(
                LayerSpec(
                    pre_norm=True,
                    self_attn=_attention(block.attn.attention, windows),
                    self_attn_norm=norm(block.ln_1),
                    feed_forward=FeedForwardSpec(
                        affine(block.mlp.c_fc), affine(block.mlp.c_proj), block.mlp.act
                    ),
                    feed_forward_norm=norm(block.ln_2),
                )
                for block in decoder.h
            ),
            norm=norm(decoder.ln_f),
            output=OutputSpec(affine(model.lm_head)),
        )

    def can_have_source(self, model: Any) -> bool:
        """Returns whether the decoder has encoder-decoder attention: never."""
        return False


def _attention(module: Any, windows: dict[int, PositionBias]) -> AttentionSpec:
    """Describes an attention; those that see equally far share one of `windows`."""
    bias = None
    # How many tokens the last of all positions sees; a global attention sees them all.
    seen = int(module.bias[0, 0, -1].sum())
    if seen < module.bias.size(-1):
        if seen not in windows:
            windows[seen] = _window(module, seen)
        bias = windows[seen]
    return AttentionSpec(
        heads=module.num_heads,
        query=affine(module.q_proj),
        key=affine(module.k_proj),
        value=affine(module.v_proj),
        output=affine(module.out_proj),
        scale=1.0,
        position_bias=bias,
    )


def _window(module: Any, seen: int) -> PositionBias:
    """Describes that each token sees itself and those before it, `seen` in all."""
    weight = module.k_proj.weight
    values = weight.new_zeros(seen + 1, module.num_heads)
    values[seen] = -torch.inf
    return PositionBias(values)
