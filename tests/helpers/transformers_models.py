"""Tiny random models of Transformers, and what `generate` is asked of them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from el_attention.transformers_plugin.version_4 import IS_4

CACHE = "past_key_values" if IS_4 else "cache"
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
DECODERS = (
    "OPTForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoForCausalLM",
)  # whose sizes have these names
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
    "pegasus_x": (
        "PegasusXForConditionalGeneration",
        {"scale_embedding": True, "block_size": 4, "num_global_tokens": 2},
    ),
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
MODELS["gpt_neo"] = (
    "GPTNeoForCausalLM",
    {
        "num_layers": 2,
        "num_heads": 3,
        "attention_types": [[["local", "global"], 1]],
        "window_size": 5,
        "intermediate_size": 14,
    },
)
SPEECH: dict[str, Any] = {
    "input_feat_per_channel": 5,
    "conv_channels": 6,
    "conv_kernel_sizes": [3, 3],
    "max_source_positions": 40,
    "max_target_positions": 40,
}
MODELS["speech_to_text"] = ("Speech2TextForConditionalGeneration", SPEECH)
MODELS["xglm"] = (
    "XGLMForCausalLM",
    {"num_layers": 2, "attention_heads": 3, "ffn_dim": 14, "scale_embedding": True},
)
T5: dict[str, Any] = {
    "d_kv": 5,
    "d_ff": 14,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 15,  # less than what is generated
    "initializer_factor": 0.1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}
MODELS |= {
    "t5": ("T5ForConditionalGeneration", T5),
    "t5, gated": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", T5),
    "umt5": ("UMT5ForConditionalGeneration", T5),
}
# Decoders that are language models by themselves, too.
MODELS |= {
    "bart alone": ("BartForCausalLM", {"scale_embedding": True}),
    "plbart alone": ("PLBartForCausalLM", {}),
    "mbart alone": ("MBartForCausalLM", {}),
    "blenderbot alone": ("BlenderbotForCausalLM", {}),
    "blenderbot_small alone": ("BlenderbotSmallForCausalLM", {}),
    "marian alone": ("MarianForCausalLM", {"scale_embedding": True}),
    "pegasus alone": ("PegasusForCausalLM", {}),
    "trocr": ("TrOCRForCausalLM", {"scale_embedding": True}),
    "trocr, sinusoidal": (
        "TrOCRForCausalLM",
        {"use_learned_position_embeddings": False, "layernorm_embedding": False},
    ),
}
# Class of the model, its encoder's width, its decoder and what is changed of that.
COMPOSITES: dict[str, tuple[str, int, str, dict[str, Any]]] = {
    "bert to bart": ("EncoderDecoderModel", WIDTH, "bart alone", {}),
    "bert to gpt2": ("EncoderDecoderModel", 8, "gpt2", {"add_cross_attention": True}),
    "bert to xglm": ("EncoderDecoderModel", 8, "xglm", {"add_cross_attention": True}),
    "vit to trocr": (
        "VisionEncoderDecoderModel",
        8,
        "trocr",
        {"cross_attention_hidden_size": 8},
    ),
    "vit to trocr, projected": ("VisionEncoderDecoderModel", 8, "trocr, sinusoidal", {}),
    "vit to mbart": ("VisionEncoderDecoderModel", WIDTH, "mbart alone", {}),
    "vit to gpt2": ("VisionEncoderDecoderModel", WIDTH, "gpt2", {"add_cross_attention": True}),
    "wav2vec2 to bart": ("SpeechEncoderDecoderModel", WIDTH, "bart alone", {}),
    "wav2vec2 to gpt2": ("SpeechEncoderDecoderModel", 8, "gpt2", {"add_cross_attention": True}),
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
    torch.manual_seed(len(name))
    if name in COMPOSITES:
        model = _composite(*COMPOSITES[name])
    else:
        class_name, options = MODELS[name]
        kind = getattr(transformers, class_name)
        sizes = DECODER if class_name in DECODERS else ENCODER_DECODER
        model = kind(kind.config_class(**{**sizes, **options, **changed}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "embed_positions" not in parameter_name or parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.add_(torch.randn_like(model.final_logits_bias))
    return model.eval().to(dtype)


def _composite(class_name: str, width: int, decoder_name: str, changed: dict[str, Any]) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 10,
    }
    encoder: Any
    if class_name == "EncoderDecoderModel":
        sizes |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 40}
        encoder = transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False)
    elif class_name == "SpeechEncoderDecoderModel":
        sizes |= {"conv_dim": [6, 6], "conv_kernel": [3, 2], "conv_stride": [2, 2]}
        sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        config = transformers.Wav2Vec2Config(**sizes, feat_extract_norm="layer")
        encoder = transformers.Wav2Vec2Model(config)
    else:
        sizes |= {"image_size": 8, "patch_size": 4}
        encoder = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False)
    decoder = build(decoder_name, torch.float32, **changed)
    model = getattr(transformers, class_name)(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return model


def inputs(model: Any, lengths: tuple[int, ...] = (7, 2, 5)) -> dict[str, Tensor]:
    """Sources padded on the right, prompts padded on the left, sounds or images."""
    longest, sentences = max(lengths), len(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]

    def drawn(*size: int) -> Tensor:
        numbers = torch.randn(size, generator=torch.manual_seed(3), dtype=torch.float64)
        return numbers.to(model.dtype)

    config = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": drawn(sentences, 3, 8, 8)}
    if config.model_type == "speech-encoder-decoder":
        samples = mask.repeat_interleave(5, 1)
        return {"inputs": drawn(sentences, 5 * longest), "attention_mask": samples.long()}
    if config.model_type == "whisper":
        return {"input_features": drawn(sentences, 5, 2 * config.max_source_positions)}
    if config.model_type == "speech_to_text":
        frames = mask.repeat_interleave(3, 1)
        return {
            "input_features": drawn(sentences, 3 * longest, config.input_feat_per_channel),
            "attention_mask": frames.long(),
        }
    tokens = torch.randint(4, 19, (sentences, longest), generator=torch.manual_seed(3))
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
    for name in ("scores", "logits", "sequences_scores", "beam_indices"):
        assert (name in expected) == (name in found)
    for name in ("scores", "logits"):
        for one, other in zip(expected.get(name, ()), found.get(name, ()), strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    for name in ("sequences_scores", "beam_indices"):
        if name in expected:
            torch.testing.assert_close(expected[name], found[name], rtol=0, atol=tolerance)


def assert_served(model: Any) -> None:
    """Asserts that no run of a converted model took the way of Transformers."""
    assert model.el_announced == set()
