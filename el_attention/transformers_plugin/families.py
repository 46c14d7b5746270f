"""The table of families: which classes of Transformers are served, and why others are not."""

from __future__ import annotations

from typing import Any

from el_attention.transformers_plugin.composite import (
    Composite,
    SpeechComposite,
    VisionComposite,
)
from el_attention.transformers_plugin.encoder_decoder import (
    Decoder,
    EncoderDecoder,
    PegasusX,
    Speech2Text,
    Whisper,
)
from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.gpt2 import GPT2
from el_attention.transformers_plugin.gpt_neo import GPTNeo
from el_attention.transformers_plugin.opt import OPT
from el_attention.transformers_plugin.parts import stock_class
from el_attention.transformers_plugin.t5 import T5

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
    ("pegasus_x", f"PegasusX{_FOR_GENERATION}"): PegasusX(
        "PegasusX", pre_norm=True, positions_names=_SINUSOIDAL
    ),
    ("m2m_100", f"M2M100{_FOR_GENERATION}"): EncoderDecoder(
        "M2M100", pre_norm=True, positions_names=_SINUSOIDAL, skips_padding=True
    ),
    ("whisper", f"Whisper{_FOR_GENERATION}"): Whisper(
        "Whisper",
        pre_norm=True,
        positions_names=("PositionalEmbedding",),
        head="proj_out",
        masks_source=False,
    ),
    ("speech_to_text", f"Speech2Text{_FOR_GENERATION}"): Speech2Text(
        "Speech2Text",
        pre_norm=True,
        positions_names=_SINUSOIDAL,
        scales=True,
        skips_padding=True,
    ),
    ("bart", "BartForCausalLM"): Decoder("Bart", pre_norm=False),
    ("plbart", "PLBartForCausalLM"): Decoder("PLBart", pre_norm=False),
    ("mbart", "MBartForCausalLM"): Decoder("MBart", pre_norm=True),
    ("blenderbot", "BlenderbotForCausalLM"): Decoder("Blenderbot", pre_norm=True),
    ("blenderbot_small", "BlenderbotSmallForCausalLM"): Decoder(
        "BlenderbotSmall", pre_norm=False, norms_tokens=True
    ),
    ("marian", "MarianForCausalLM"): Decoder(
        "Marian", pre_norm=False, positions_names=_SINUSOIDAL, scales=True
    ),
    ("pegasus", "PegasusForCausalLM"): Decoder(
        "Pegasus", pre_norm=True, positions_names=_SINUSOIDAL, scales=True
    ),
    ("trocr", "TrOCRForCausalLM"): Decoder(
        "TrOCR",
        pre_norm=False,
        positions_names=("LearnedPositionalEmbedding", *_SINUSOIDAL),
        head="output_projection",
        skips_padding=True,
    ),
    ("xglm", "XGLMForCausalLM"): Decoder(
        "XGLM", pre_norm=True, positions_names=_SINUSOIDAL, around=None, decoder_name="Model"
    ),
    ("t5", f"T5{_FOR_GENERATION}"): T5("T5"),
    ("mt5", f"MT5{_FOR_GENERATION}"): T5("MT5", scales=False),
    ("umt5", f"UMT5{_FOR_GENERATION}"): T5("UMT5", shares_bias=False),
    ("opt", "OPTForCausalLM"): OPT(),
    ("gpt2", "GPT2LMHeadModel"): GPT2(),
    ("gpt_neo", "GPTNeoForCausalLM"): GPTNeo(),
}

# Two models in one.
COMPOSITES: dict[tuple[str, str], type[Composite]] = {
    ("encoder_decoder", "EncoderDecoderModel"): Composite,
    ("speech_encoder_decoder", "SpeechEncoderDecoderModel"): SpeechComposite,
    ("vision_encoder_decoder", "VisionEncoderDecoderModel"): VisionComposite,
}

# Why models of classes that users try are not served, by the name of the class.
REASONS: dict[str, str] = {
    "BloomForCausalLM": "the weights of its queries, keys and values lie head by head in one",
}


def family_of(model: Any) -> Family | None:
    """Returns the family of a model, or None."""
    key = _key(model)
    if key not in COMPOSITES:
        return FAMILIES.get(key)
    decoder = family_of(model.decoder)
    return None if decoder is None else COMPOSITES[key](decoder)


def unserved_family(model: Any) -> str:
    """Returns why a model belongs to no family."""
    if _key(model) in COMPOSITES:
        return unserved_family(model.decoder)
    name = stock_class(model).__qualname__
    return REASONS.get(name, f"{name} is of no family that is served")


def _key(model: Any) -> tuple[str, str]:
    """Module and name of a class of Transformers; no such module elsewhere."""
    base = stock_class(model)
    folder = base.__module__.rpartition(".modeling_")[2]
    if base.__module__ != f"transformers.models.{folder}.modeling_{folder}":
        folder = ""
    return folder, base.__qualname__
