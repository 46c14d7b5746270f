"""The table of families: which classes of Transformers are served, and why others are not."""

from __future__ import annotations

from el_attention.transformers_plugin.encoder_decoder import EncoderDecoder
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.gpt2 import GPT2
from el_attention.transformers_plugin.opt import OPT

_SINUSOIDAL = "SinusoidalPositionalEmbedding"

_FOR_GENERATION = "ForConditionalGeneration"

# By the module and by the name of the class.
FAMILIES: dict[tuple[str, str], Family] = {
    ("bart", f"Bart{_FOR_GENERATION}"): EncoderDecoder("Bart", pre_norm=False, offset=2),
    ("plbart", f"PLBart{_FOR_GENERATION}"): EncoderDecoder("PLBart", pre_norm=False, offset=2),
    ("mbart", f"MBart{_FOR_GENERATION}"): EncoderDecoder("MBart", pre_norm=True, offset=2),
    ("blenderbot", f"Blenderbot{_FOR_GENERATION}"): EncoderDecoder("Blenderbot", pre_norm=True),
    ("marian", "MarianMTModel"): EncoderDecoder(
        "Marian", pre_norm=False, positions_name=_SINUSOIDAL, scales=True
    ),
    ("pegasus", f"Pegasus{_FOR_GENERATION}"): EncoderDecoder(
        "Pegasus", pre_norm=True, positions_name=_SINUSOIDAL, scales=True
    ),
    ("m2m_100", f"M2M100{_FOR_GENERATION}"): EncoderDecoder(
        "M2M100", pre_norm=True, positions_name=_SINUSOIDAL, skips_padding=True
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
    "BlenderbotSmallForConditionalGeneration": (
        "it adds positions to embeddings that are normalized before"
    ),
}


def family_of(model: type) -> Family | None:
    """Returns the family of a class of Transformers, or None."""
    for (folder, name), family in FAMILIES.items():
        if (model.__module__, model.__qualname__) == (
            f"transformers.models.{folder}.modeling_{folder}",
            name,
        ):
            return family
    return None


def unserved_family(model: type) -> str:
    """Returns why a class of Transformers belongs to no family."""
    return REASONS.get(model.__qualname__, f"{model.__qualname__} is of no family that is served")
