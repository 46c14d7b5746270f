"""Turns models and generators into their EL-attention form, in place."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules import BaseLayer, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from fairseq.sequence_generator import SequenceGenerator

from el_attention.attention import Planner
from el_attention.decoder import NarrowWeights, free_weights
from el_attention.fairseq_plugin import describe
from el_attention.fairseq_plugin.architecture import architecture_of
from el_attention.fairseq_plugin.attention import ELAttention
from el_attention.fairseq_plugin.decoder import ELDecoder
from el_attention.fairseq_plugin.encoder import ELEncoder
from el_attention.fairseq_plugin.generator import specialize_generator
from el_attention.plain import original
from el_attention.specialize import SameName, specialize

logger = logging.getLogger(__name__)

_refused: WeakSet[BaseFairseqModel] = WeakSet()  # models whose warning has been given


def convert_generator(generator: SequenceGenerator, plan: str, memory_budget: int | None) -> None:
    """Converts a generator and the models of its ensemble; for the arguments see `convert`."""
    for model in generator.model.models:
        convert_model(original(model), plan, memory_budget)
    specialize_generator(generator)


def convert_model(model: BaseFairseqModel, plan: str, memory_budget: int | None) -> None:
    """Converts a model, or says once why it cannot; for the arguments see `convert`."""
    reason = unsupported(model)
    if reason is not None:
        if model not in _refused:
            logger.warning(f"{type(model).__name__}: fairseq's own attention, because {reason}")
        _refused.add(model)
        return
    specialize(model, SameName)  # so that scripting takes a copy of the whole model
    planner = Planner(plan, architecture_of(model), memory_budget)
    decoder = specialize(model.decoder, ELDecoder)
    decoder.el_announced, decoder.el_planner = set(), planner
    decoder.el_narrow = getattr(decoder, "el_narrow", None) or NarrowWeights()
    if not getattr(model, "full_context_alignment", False):  # else fairseq aligns afterwards
        for name in ("alignment_layer", "alignment_heads"):
            setattr(model.decoder, f"el_{name}", getattr(model, name, None))
    for name, module in model.decoder.named_modules():
        if isinstance(module, MultiheadAttention):
            specialize(module, ELAttention)
            module.el_name, module.el_planner = f"decoder.{name}", planner
            # fairseq never forgets the beam of an earlier generation; the tree knows better.
            module.beam_size = 1
    if getattr(model, "encoder", None) is not None:
        specialize(model.encoder, ELEncoder)
        # BART hides the method behind an instance attribute once it has been told a beam.
        model.encoder.__dict__.pop("reorder_encoder_out", None)
        for module in model.encoder.modules():
            # fairseq 0.12.2's fast path cannot handle padding with today's torch.
            if hasattr(module, "can_use_fastpath"):
                module.can_use_fastpath = False


def free_models(models: Iterable[Any]) -> None:
    """Frees float32 weights of converted models, wrapped or not; see `decoder.free_weights`."""
    for model in map(original, models):
        decoder = getattr(model, "decoder", None)
        if isinstance(decoder, ELDecoder) and describe.unsupported(decoder) is None:
            with_source = getattr(model, "encoder", None) is not None
            free_weights(model, describe.spec_of(decoder, with_source))


def unsupported(model: BaseFairseqModel) -> str | None:
    """Returns why `model` cannot use shared states at all, or None if it can."""
    decoder, encoder = getattr(model, "decoder", None), getattr(model, "encoder", None)
    if not isinstance(decoder, TransformerDecoderBase):
        return f"its decoder is a {type(decoder).__name__}, expected a TransformerDecoder"
    if decoder.cross_self_attention:
        return "--cross-self-attention joins source and target states of each beam"
    for layer in decoder.layers.children():  # to iterate over `layers` would be to drop some
        if isinstance(layer, BaseLayer):
            continue
        if not isinstance(layer, TransformerDecoderLayerBase):
            return f"it has a {type(layer).__name__}, expected a TransformerDecoderLayer"
        for name in ("self_attn", "encoder_attn"):
            attention = getattr(layer, name, None)
            if attention is not None and not isinstance(attention, MultiheadAttention):
                return f"its {name} is a {type(attention).__name__}, expected MultiheadAttention"
    if encoder is not None:
        if not isinstance(encoder, TransformerEncoderBase):
            return f"its encoder is a {type(encoder).__name__}, expected a TransformerEncoder"
        reorder = type(encoder).reorder_encoder_out
        if reorder not in (
            TransformerEncoderBase.reorder_encoder_out,
            ELEncoder.reorder_encoder_out,
        ):
            return f"{type(encoder).__name__} reorders its output in its own way"
    return None
