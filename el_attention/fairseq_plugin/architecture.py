"""The shapes of a fairseq model, for the cost model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from fairseq import utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.models.nat import FairseqNATModel
from fairseq.models.transformer import TransformerModelBase
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.modules import gelu_accurate
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import nn

from el_attention.cost import Architecture, Stack


def is_served(model: type) -> bool:
    """Whether a model class belongs to a family that EL-attention serves.

    Non-autoregressive models share the Transformer's base class but keep no states.
    """
    return issubclass(model, (TransformerModelBase, TransformerLanguageModel)) and not issubclass(
        model, FairseqNATModel
    )


def architecture_of(model: BaseFairseqModel) -> Architecture:
    """Returns the shapes of a Transformer; those of its first layer stand for all.

    Args:
        model: a model with a Transformer's decoder, and with a Transformer's encoder or none.
    """
    encoder = getattr(model, "encoder", None)
    decoder = model.decoder
    return Architecture(
        name=type(model).__name__,
        decoder=_stack(decoder.layers, TransformerDecoderLayerBase),
        encoder=None if encoder is None else _stack(encoder.layers, TransformerEncoderLayerBase),
        vocabulary=len(decoder.dictionary),
    )


def architecture_named(name: str, vocabulary: int) -> Architecture:
    """Returns the shapes of one of fairseq's architectures.

    Args:
        name: as for fairseq's --arch.
        vocabulary: number of words, which an architecture does not say.

    Raises:
        ValueError: if there is none of that name in the families that this package serves.
    """
    kind = ARCH_MODEL_REGISTRY.get(name)
    if kind is None or not is_served(kind):
        raise ValueError(f"no Transformer of fairseq is called {name!r}")
    args = Namespace()
    ARCH_CONFIG_REGISTRY[name](args)
    language_model = issubclass(kind, TransformerLanguageModel)
    stacks = {
        side: Stack(
            layers=getattr(args, f"{side}_layers"),
            width=getattr(args, f"{side}_embed_dim"),
            ffn=getattr(args, f"{side}_ffn_embed_dim"),
            heads=getattr(args, f"{side}_attention_heads"),
            inner=_inner(utils.get_activation_fn(args.activation_fn)),
        )
        for side in (("decoder",) if language_model else ("encoder", "decoder"))
    }
    tables = 1 if getattr(args, "share_all_embeddings", language_model) else 3
    if tables == 3 and getattr(args, "share_decoder_input_output_embed", False):
        tables = 2
    return Architecture(name, stacks["decoder"], stacks.get("encoder"), vocabulary, tables)


def _stack(layers: nn.Module, kind: type[nn.Module]) -> Stack:
    every = layers.named_modules(remove_duplicate=False)  # a layer may stand in several places
    found = [layer for _, layer in every if isinstance(layer, kind)]
    if not found:  # layers of other kinds, which have a plan of their own
        return Stack(layers=0, width=1, ffn=1, heads=1)
    first: Any = found[0]
    return Stack(
        len(found),
        first.embed_dim,
        # Of a user's layer, which may have other parts, the usual.
        getattr(getattr(first, "fc1", None), "out_features", 4 * first.embed_dim),
        getattr(getattr(first, "self_attn", None), "num_heads", 1),
        _inner(getattr(first, "activation_fn", None)),
    )


def _inner(activation: Callable[..., Any] | None) -> int:
    # As in GPT-2: gelu_accurate is put together from several operators.
    return 4 if activation is gelu_accurate else 2
