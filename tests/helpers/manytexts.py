"""Tiny models of Transformers, a tokenizer for them, and texts of different lengths."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY, POSITIONS = 30, 40
TEXTS = [
    "w3 w1 w4 w1 w5",
    "w9",
    "w2 w6 w5 w3 w5 w8 w9 w7 w9 w3 w2 w3 w8 w4 w6",
    "w14 w2 w14",
    "w11 w12 w13 w14 w15 w16 w17 w18",
    "w7 w7",
    "w10 w11 w2 w1 w5",
    "w8 w8 w8 w2 w1 w0 w18 w9 w9 w1 w3 w3",
    "w1 w0 w2",
]
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# Hypotheses end with any of them: some do early, some late.
ENDS = (2, 6, 11, 17)
_TOKENS = {"tie_word_embeddings": False, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def tokenizer_of(name: str) -> Any:
    """A tokenizer of words; sources begin and end with a token of their own, prompts do not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if name not in ("gpt2", "opt"):
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True))
    )


def model_of(name: str) -> Any:
    """A random float64 model that ends hypotheses after some tokens."""
    import transformers

    encoder_decoder: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "d_model": 12,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 10,
        "decoder_ffn_dim": 14,
        "max_position_embeddings": POSITIONS,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
        **_TOKENS,
    }
    decoder: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": POSITIONS,
        **_TOKENS,
    }
    torch.manual_seed(8)
    model: Any
    if name == "bart":
        model = transformers.BartForConditionalGeneration(
            transformers.BartConfig(**encoder_decoder)
        )
    elif name == "m2m_100":
        config = transformers.M2M100Config(**encoder_decoder, scale_embedding=True)
        model = transformers.M2M100ForConditionalGeneration(config)
    elif name == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**decoder, n_inner=14))
    elif name == "t5":
        t5: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "d_model": 12,
            "d_kv": 4,
            "d_ff": 14,
            "num_layers": 2,
            "num_heads": 3,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 15,
            "decoder_start_token_id": 1,
            **_TOKENS,
        }
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**t5))
    else:
        model = transformers.OPTForCausalLM(transformers.OPTConfig(**decoder, ffn_dim=14))
    # So that hypotheses differ between the texts, and do not repeat one token.
    noise, source = {"bart": (0.05, 30), "t5": (0.1, 60)}.get(name, (0.3, 5))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "embed_positions" not in parameter_name or parameter.requires_grad:
                parameter.add_(noise * torch.randn_like(parameter))
            if parameter_name.endswith(
                ("encoder_attn.out_proj.weight", "EncDecAttention.o.weight")
            ):
                parameter.mul_(source)
        model.get_output_embeddings().weight.mul_(2)
    model.generation_config.eos_token_id = list(ENDS)
    return model.eval().to(torch.float64)
