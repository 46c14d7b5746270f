"""Turns what fairseq has built into its EL-attention form, in place."""

from __future__ import annotations

import logging
from typing import TypeVar
from weakref import WeakSet

from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules import BaseLayer, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from fairseq.sequence_generator import SequenceGenerator

from el_attention.attention import PLAN_CHOICES, Planner
from el_attention.plugin.architecture import architecture_of
from el_attention.plugin.attention import ELAttention
from el_attention.plugin.decoder import ELDecoder
from el_attention.plugin.encoder import ELEncoder
from el_attention.plugin.generator import convert_generator
from el_attention.plugin.hub import ELHub
from el_attention.plugin.layer import ELDecoderLayer
from el_attention.plugin.plain import original
from el_attention.plugin.specialize import specialize
from el_attention.plugin.task import ELTask

logger = logging.getLogger(__name__)

_refused: WeakSet[BaseFairseqModel] = WeakSet()  # models whose warning has been given

T = TypeVar("T", BaseFairseqModel, GeneratorHubInterface, SequenceGenerator)


def convert(target: T, plan: str = "auto", memory_budget: int | None = None) -> T:
    """Makes a model, a hub interface or a generator use EL-attention when it generates.

    The object is changed in place and stays what it was: same parameters and names, same results.
    Training and scoring are fairseq's own.  A model that cannot be converted is left as it is, and
    one warning says why.

    Args:
        target: a fairseq model, also one that `torch.compile` has wrapped; the result of
            `from_pretrained`; or a `SequenceGenerator`, whose models are converted too.
        plan: "auto", "expanded-query" or "shared-projection".
        memory_budget: bytes that "auto" plans for, beyond what is loaded; None for what is free.

    Returns:
        `target`.

    Raises:
        TypeError: if `target` is something else.
        ValueError: if there is no such plan, or a generator's beam is not positive.
    """
    if plan not in PLAN_CHOICES:
        raise ValueError(f"attention plan: expected one of {PLAN_CHOICES}, got {plan!r}")
    if isinstance(target, GeneratorHubInterface):
        task = specialize(target.task, ELTask)
        task.el_plan, task.el_memory_budget = plan, memory_budget
        specialize(target, ELHub)
        for model in target.models:
            _convert_model(model, plan, memory_budget)
    elif isinstance(target, SequenceGenerator):
        for model in target.model.models:
            _convert_model(original(model), plan, memory_budget)
        convert_generator(target)
    elif isinstance(original(target), BaseFairseqModel):
        _convert_model(original(target), plan, memory_budget)
    else:
        raise TypeError(
            "convert: expected a fairseq model, a hub interface or a SequenceGenerator, "
            f"got {type(target).__name__}"
        )
    return target


def reason_against(model: BaseFairseqModel) -> str | None:
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
            attention = getattr(layer, name)
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


def _convert_model(model: BaseFairseqModel, plan: str, memory_budget: int | None) -> None:
    reason = reason_against(model)
    if reason is not None:
        if model not in _refused:
            logger.warning(f"{type(model).__name__}: fairseq's own attention, because {reason}")
        _refused.add(model)
        return
    specialize(model.decoder, ELDecoder).el_announced = set()
    planner = Planner(plan, architecture_of(model), memory_budget)
    if not getattr(model, "full_context_alignment", False):  # else fairseq aligns afterwards
        for name in ("alignment_layer", "alignment_heads"):
            setattr(model.decoder, f"el_{name}", getattr(model, name, None))
    for name, module in model.decoder.named_modules():
        if isinstance(module, MultiheadAttention):
            specialize(module, ELAttention)
            module.el_name, module.el_planner = f"decoder.{name}", planner
            # fairseq never forgets the beam of an earlier generation; the tree knows better.
            module.beam_size = 1
        elif isinstance(module, TransformerDecoderLayerBase):
            _convert_layer(module, model.decoder.el_announced)
    if getattr(model, "encoder", None) is not None:
        specialize(model.encoder, ELEncoder)
        # BART hides the method behind an instance attribute once it has been told a beam.
        model.encoder.__dict__.pop("reorder_encoder_out", None)
        for module in model.encoder.modules():
            # fairseq 0.12.2's fast path cannot handle padding with today's torch.
            if hasattr(module, "can_use_fastpath"):
                module.can_use_fastpath = False


def _convert_layer(layer: TransformerDecoderLayerBase, announced: set[str]) -> None:
    forward = type(layer).forward
    if forward is TransformerDecoderLayerBase.forward:
        specialize(layer, ELDecoderLayer)
    elif forward is not ELDecoderLayer.forward:
        line = f"layers: a step of their own, because {type(layer).__name__} has another forward"
        if line not in announced:
            logger.info(line)
        announced.add(line)
