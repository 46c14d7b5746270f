"""GPT-2: weights lie as [in, out], those of query, key and value beside one another."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.pytorch_utils import Conv1D
from transformers.utils import ModelOutput

from el_attention.decoder import (
    Affine,
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    OutputSpec,
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


class GPT2(Family):
    """See `Family`."""

    output: ClassVar[type[ModelOutput]] = CausalLMOutputWithCrossAttentions

    def unsupported(self, model: Any) -> str | None:
        """Returns why a spec would not say what `model` computes, or None."""
        reason = unsupported_modules(
            ("transformer", model.transformer, classes_beside(model, "GPT2Model")),
            ("lm_head", model.lm_head, LINEAR),
        )
        if reason is not None:
            return reason
        blocks = model.transformer.h
        numbers = map(str, range(len(blocks)))
        dropouts = ("drop", "dropout", "attn_dropout", "resid_dropout")
        reason = unsupported_parts(
            model.transformer,
            {
                **dict.fromkeys(numbers, classes_beside(model, "GPT2Block")),
                **dict.fromkeys(("c_attn", "q_attn", "c_proj", "c_fc"), (Conv1D,)),
                **dict.fromkeys(("ln_1", "ln_cross_attn", "ln_2", "ln_f"), NORM),
                **dict.fromkeys(("wte", "wpe"), (nn.Embedding,)),
                **dict.fromkeys(dropouts, (nn.Dropout,)),
                **dict.fromkeys(("attn", "crossattention"), classes_beside(model, "GPT2Attention")),
                "mlp": classes_beside(model, "GPT2MLP"),
                "h": (nn.ModuleList,),
                "act": None,
            },
        )
        if reason is None and any(block.attn.reorder_and_upcast_attn for block in blocks):
            reason = "its attention is computed in float32 whatever its weights are"
        return reason or unsupported_places(block.attn.layer_idx for block in blocks)

    def describe(self, model: Any, has_source: bool) -> DecoderSpec:
        """Describes a model that is not `unsupported`."""
        decoder = model.transformer
        return DecoderSpec(
            embedding=EmbeddingSpec(
                tokens=stored_weight(decoder.wte),
                positions=decoder.wpe.weight,
                dtype=weight_dtype(decoder.wte),
            ),
            layers=tuple(
                LayerSpec(
                    pre_norm=True,
                    self_attn=_attention(block.attn),
                    self_attn_norm=norm(block.ln_1),
                    feed_forward=FeedForwardSpec(
                        _transposed(block.mlp.c_fc), _transposed(block.mlp.c_proj), block.mlp.act
                    ),
                    feed_forward_norm=norm(block.ln_2),
                    cross_attn=_attention(block.crossattention) if has_source else None,
                    cross_attn_norm=norm(block.ln_cross_attn) if has_source else None,
                )
                for block in decoder.h
            ),
            norm=norm(decoder.ln_f),
            output=OutputSpec(affine(model.lm_head)),
        )

    def can_have_source(self, model: Any) -> bool:
        """Returns whether the decoder has encoder-decoder attention."""
        return all(hasattr(block, "crossattention") for block in model.transformer.h)


def _attention(module: Any) -> AttentionSpec:
    weights = module.c_attn.weight.t().split(module.embed_dim)
    biases = module.c_attn.bias.split(module.embed_dim)
    parts = [Affine(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    if module.is_cross_attention:
        parts.insert(0, _transposed(module.q_attn))
    query, key, value = parts
    return AttentionSpec(
        heads=module.num_heads,
        query=query,
        key=key,
        value=value,
        output=_transposed(module.c_proj),
        # Transformers 4 has no attribute for it.
        scale=getattr(module, "scaling", module.head_dim**-0.5),
    )


def _transposed(module: Any) -> Affine:
    """Describes a `Conv1D`."""
    return Affine(stored_weight(module).t(), module.bias)
