"""The table of families: which classes of Transformers are served, and why others are not."""

from __future__ import annotations

from typing import Any

from el_attention.transformers_plugin.encoder_decoder import EncoderDecoder
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.gpt2 import GPT2
from el_attention.transformers_plugin.opt import OPT
from el_attention.transformers_plugin.parts import stock_class

_SINUSOIDAL = ("SinusoidalPositionalEmbedding",)

_FOR_GENERATION = "ForConditionalGeneration"

# By the module and by the name of the class.
FAMILIES: dict[tuple[str, str], Family] = {
    ("bart", f"Bart{_FOR_GENERATION}"): EncoderDecoder("Bart", pre_norm=False),
    ("plbart", f"PLBart{_FOR_GENERATION}"): EncoderDecoder("PLBart", pre_norm=False),
    ("mbart", f"MBart{_FOR_GENERATION}"): EncoderDecoder("MBart", pre_norm=True),
    ("blenderbot", f"Blenderbot{_FOR_GENERATION}"): EncoderDecoder("Blenderbot", pre_norm=True),
    ("blenderbot_small", f"BlenderbotSmall{_FOR_GENERATION}"): EncoderDecoder(
        "BlenderbotSmall", pre_norm=False, norms_tokens=True
    ),
    ("marian", "MarianMTModel"): EncoderDecoder(
        "Marian", pre_norm=False, positions_names=_SINUSOIDAL, scales=True
    ),
    ("pegasus", f"Pegasus{_FOR_GENERATION}"): EncoderDecoder(
        "Pegasus", pre_norm=True, positions_names=_SINUSOIDAL, scales=True
    ),
    ("m2m_100", f"M2M100{_FOR_GENERATION}"): EncoderDecoder(
        "M2M100", pre_norm=True, positions_names=_SINUSOIDAL
    ),
    ("whisper", f"Whisper{_FOR_GENERATION}"): EncoderDecoder(
        "Whisper",
        pre_norm=True,
        positions_names=("PositionalEmbedding",),
        head="proj_out",
        masks_source=False,
    ),
    ("opt", "OPTForCausalLM"): OPT(),
    ("gpt2", "GPT2LMHeadModel"): GPT2(),
}

# Why models of classes that users try are not served, by the name of the class.
REASONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "T5ForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "UMT5ForConditionalGeneration",
        ),
        "its attention adds a bias that depends on positions, which the operators cannot add",
    ),
}


def family_of(model: Any) -> Family | None:
    """Returns the family of a model, or None."""
    base = stock_class(model)
    for (folder, name), family in FAMILIES.items():
        if (base.__module__, base.__qualname__) == (
            f"transformers.models.{folder}.modeling_{folder}",
            name,
        ):
            return family
    return None


def unserved_family(model: Any) -> str:
    """Returns why a model belongs to no family."""
    name = stock_class(model).__qualname__
    return REASONS.get(name, f"{name} is of no family that is served")
