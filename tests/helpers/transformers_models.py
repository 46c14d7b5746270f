"""Tiny random models of Transformers, and what `generate` is asked of them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

PLANS = ("expanded-query", "shared-projection")
VOCAB_SIZE, WIDTH = 23, 12

ENCODER_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 10,
    "decoder_ffn_dim": 14,
    "max_position_embeddings": 40,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
DECODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 40,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
WHISPER: dict[str, Any] = {
    "num_mel_bins": 5,
    "max_source_positions": 20,
    "max_target_positions": 40,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
}
# Class of the model, and what its configuration is beside the above.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("BartForConditionalGeneration", {"scale_embedding": True}),
    "plbart": ("PLBartForConditionalGeneration", {}),
    "mbart": ("MBartForConditionalGeneration", {"scale_embedding": True}),
    "blenderbot": ("BlenderbotForConditionalGeneration", {}),
    "marian": ("MarianMTModel", {"scale_embedding": True, "activation_function": "swish"}),
    "marian, two vocabularies": (
        "MarianMTModel",
        {
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": 19,
            "tie_word_embeddings": False,
        },
    ),
    "blenderbot_small": ("BlenderbotSmallForConditionalGeneration", {"scale_embedding": True}),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "pegasus": ("PegasusForConditionalGeneration", {"scale_embedding": True}),
    "m2m_100": ("M2M100ForConditionalGeneration", {"scale_embedding": True}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 14}),
    "opt, post-norm": (
        "OPTForCausalLM",
        {"ffn_dim": 14, "do_layer_norm_before": False, "word_embed_proj_dim": 8},
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_inner": 14}),
    "gpt2, scaled by layers": (
        "GPT2LMHeadModel",
        {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
}
TWO = ["bart", "gpt2"]
# What is asked of generate. Sequences are long enough for beams to change places often.
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "several of the beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "early stopping": {"num_beams": 3, "early_stopping": True, "length_penalty": -1.0},
    "never early": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.5},
    "several ends": {"num_beams": 3, "eos_token_id": [2, 7, 9]},
    "longest": {"num_beams": 2, "min_length": 12, "no_repeat_ngram_size": 2},
    "forced": {"num_beams": 2, "forced_bos_token_id": 5, "forced_eos_token_id": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "top_k": 9},
    "sampled beams": {"do_sample": True, "num_beams": 3, "temperature": 0.7},
}


def build(name: str, dtype: torch.dtype = torch.float64, **changed: Any) -> Any:
    """A model with weights far from those of an initialization."""
    class_name, options = MODELS[name]
    kind = getattr(transformers, class_name)
    is_decoder = class_name in ("OPTForCausalLM", "GPT2LMHeadModel")
    sizes = DECODER if is_decoder else ENCODER_DECODER
    config = kind.config_class(**{**sizes, **options, **changed})
    torch.manual_seed(len(name))
    model = kind(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "embed_positions" not in parameter_name or parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.add_(torch.randn_like(model.final_logits_bias))
    return model.to(dtype)


def inputs(model: Any, lengths: tuple[int, ...] = (7, 2, 5)) -> dict[str, Tensor]:
    """Sources padded on the right, prompts padded on the left, or features of sound."""
    longest = max(lengths)
    if model.main_input_name == "input_features":
        size = (len(lengths), model.config.num_mel_bins, 2 * model.config.max_source_positions)
        features = torch.randn(size, generator=torch.manual_seed(3), dtype=torch.float64)
        return {"input_features": features.to(model.dtype)}
    tokens = torch.randint(4, 19, (len(lengths), longest), generator=torch.manual_seed(3))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    if not model.config.is_encoder_decoder:
        mask = mask.flip(1)
    return {"input_ids": tokens.masked_fill(~mask, 1), "attention_mask": mask.long()}


def generated(model: Any, arguments: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(11)
    return model.generate(
        **arguments,
        **{"max_length": 24, **options},
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )


def assert_same(expected: Any, found: Any, tolerance: float) -> None:
    assert torch.equal(expected.sequences, found.sequences)
    for name in ("scores", "logits"):
        for one, other in zip(expected[name], found[name], strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    for name in ("sequences_scores", "beam_indices"):
        assert (name in expected) == (name in found)
        if name in expected:
            torch.testing.assert_close(expected[name], found[name], rtol=0, atol=tolerance)


def assert_served(model: Any) -> None:
    """Asserts that no run of a converted model took the way of Transformers."""
    assert model.el_announced == set()
