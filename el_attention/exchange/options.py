"""Which option of fairseq is which setting of Transformers; what has no counterpart is refused."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

# fairseq's numbers of <s>, <pad> and </s>, which begins what a decoder reads.
TOKENS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}

# Activations by their names in fairseq. Its gelu is computed in float32.
ACTIVATIONS = {"gelu": "gelu", "gelu_accurate": "gelu_new", "relu": "relu"}

# What fairseq's decoder must be for both, by the name in its `TransformerConfig`.
_DECODER: dict[str, Any] = {
    "decoder.learned_pos": True,
    "decoder.layers_to_keep": None,
    "decoder.xformers_att_config": None,
    "no_token_positional_embeddings": False,
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "tie_adaptive_weights": False,
    "tie_adaptive_proj": False,
    "quant_noise.pq": 0,
    "quant_noise.scalar": 0,
    "char_inputs": False,
    "base_layers": 0,
    "cross_self_attention": False,
    "no_decoder_final_norm": False,
}
_BART: dict[str, Any] = {
    **_DECODER,
    "encoder.learned_pos": True,
    "encoder.layers_to_keep": None,
    "encoder.xformers_att_config": None,
    "encoder.normalize_before": False,
    "decoder.normalize_before": False,
    "share_all_embeddings": True,
    "merge_src_tgt_embed": False,
    "layernorm_embedding": True,
    "no_cross_attention": False,
}
_GPT2: dict[str, Any] = {
    **_DECODER,
    "decoder.normalize_before": True,
    "share_decoder_input_output_embed": True,
    "layernorm_embedding": False,
    "no_scale_embedding": True,
}
# Read with their values.
_TAKEN = {
    "activation_fn",
    "max_source_positions",
    "max_target_positions",
    "no_scale_embedding",
    *(
        f"{side}.{name}"
        for side in ("encoder", "decoder")
        for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
    ),
    "decoder.input_dim",
    "decoder.output_dim",
}
# They change nothing in what a trained model computes.
_OF_TRAINING = {
    "activation_dropout",
    "adaptive_softmax_dropout",
    "adaptive_softmax_factor",
    "attention_dropout",
    "base_shuffle",
    "base_sublayers",
    "checkpoint_activations",
    "decoder.embed_path",
    "decoder.layerdrop",
    "dropout",
    "encoder.embed_path",
    "encoder.layerdrop",
    "export",
    "min_params_to_wrap",
    "offload_activations",
    "quant_noise.pq_block_size",
    "relu_dropout",
}

# What a configuration of Transformers must say.
_BART_CONFIG: dict[str, Any] = {
    "model_type": "bart",
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "decoder_start_token_id": TOKENS["eos_token_id"],
    **TOKENS,
}
_GPT2_CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    **TOKENS,
}


def classified() -> dict[str, set[str]]:
    """Returns the options of fairseq that are known, by what is done with them."""
    return {
        "required of BART": {*_BART},
        "required of language models": {*_GPT2},
        "taken": _TAKEN,
        "of training": _OF_TRAINING,
    }


def bart_config(options: Any, vocabulary: int) -> dict[str, Any]:
    """Returns the settings of a `BartConfig`.

    Args:
        options: fairseq's `TransformerConfig` of a BART.
        vocabulary: rows of the table of tokens.

    Raises:
        ValueError: naming an option without counterpart.
    """
    _require(options, _BART)
    encoder, decoder = options.encoder, options.decoder
    _equal(
        encoder_embed_dim=encoder.embed_dim,
        decoder_embed_dim=decoder.embed_dim,
        decoder_input_dim=decoder.input_dim,
        decoder_output_dim=decoder.output_dim,
    )
    _equal(
        max_source_positions=options.max_source_positions,
        max_target_positions=options.max_target_positions,
    )
    return {
        "vocab_size": vocabulary,
        "d_model": encoder.embed_dim,
        "max_position_embeddings": options.max_source_positions,
        "activation_function": _activation(options),
        "scale_embedding": not options.no_scale_embedding,
        "encoder_layers": encoder.layers,
        "encoder_ffn_dim": encoder.ffn_embed_dim,
        "encoder_attention_heads": encoder.attention_heads,
        "decoder_layers": decoder.layers,
        "decoder_ffn_dim": decoder.ffn_embed_dim,
        "decoder_attention_heads": decoder.attention_heads,
        "decoder_start_token_id": TOKENS["eos_token_id"],
        **TOKENS,
    }


def gpt2_config(options: Any, vocabulary: int) -> dict[str, Any]:
    """Returns the settings of a `GPT2Config`.

    Args:
        options: fairseq's `TransformerConfig` of a decoder alone.
        vocabulary: rows of the table of tokens.

    Raises:
        ValueError: naming an option without counterpart.
    """
    _require(options, _GPT2)
    decoder = options.decoder
    _equal(
        decoder_embed_dim=decoder.embed_dim,
        decoder_input_dim=decoder.input_dim,
        decoder_output_dim=decoder.output_dim,
    )
    return {
        "vocab_size": vocabulary,
        "n_embd": decoder.embed_dim,
        "n_inner": decoder.ffn_embed_dim,
        "n_layer": decoder.layers,
        "n_head": decoder.attention_heads,
        "n_positions": options.max_target_positions,
        "activation_function": _activation(options),
        **TOKENS,
    }


def bart_arguments(config: Any) -> Namespace:
    """Returns the options of fairseq-train for a `BartConfig`.

    Raises:
        ValueError: naming a setting without counterpart.
    """
    _require(config, _BART_CONFIG)
    sizes = {
        f"{side}_{name}": getattr(config, f"{side}_{theirs}")
        for side in ("encoder", "decoder")
        for name, theirs in (
            ("layers", "layers"),
            ("ffn_embed_dim", "ffn_dim"),
            ("attention_heads", "attention_heads"),
        )
    }
    return Namespace(
        task="translation",
        source_lang="source",
        target_lang="target",
        arch="bart_base",
        encoder_embed_dim=config.d_model,
        decoder_embed_dim=config.d_model,
        max_source_positions=config.max_position_embeddings,
        max_target_positions=config.max_position_embeddings,
        activation_fn=_fairseq_activation(config),
        no_scale_embedding=not config.scale_embedding,
        share_all_embeddings=True,
        **sizes,
    )


def gpt2_arguments(config: Any) -> Namespace:
    """Returns the options of fairseq-train for a `GPT2Config`.

    Raises:
        ValueError: naming a setting without counterpart.
    """
    _require(config, _GPT2_CONFIG)
    width, positions = config.n_embd, config.n_positions
    return Namespace(
        task="language_modeling",
        # fairseq's names of GPT-2 architectures are of other sizes than OpenAI's: all are given.
        arch="transformer_lm_gpt",
        decoder_embed_dim=width,
        decoder_input_dim=width,
        decoder_output_dim=width,
        decoder_ffn_embed_dim=config.n_inner or 4 * width,
        decoder_layers=config.n_layer,
        decoder_attention_heads=config.n_head,
        decoder_learned_pos=True,
        no_scale_embedding=True,
        share_decoder_input_output_embed=True,
        activation_fn=_fairseq_activation(config),
        dropout=config.resid_pdrop,
        attention_dropout=config.attn_pdrop,
        tokens_per_sample=positions,
        max_target_positions=positions,
        sample_break_mode="eos",
    )


def _require(options: Any, required: dict[str, Any]) -> None:
    for name, expected in required.items():
        found: Any = options
        for part in name.split("."):
            found = getattr(found, part)
        if found != expected and (found or expected):  # None, 0 and False are one
            raise ValueError(
                f"{name.replace('.', '_')}: expected {expected!r}, what both have, got {found!r}"
            )


def _equal(**sizes: int) -> None:
    if len({*sizes.values()}) > 1:
        raise ValueError(f"expected equal sizes, as Transformers has them, got {sizes}")


def _activation(options: Any) -> str:
    name = str(options.activation_fn)
    if name not in ACTIVATIONS:
        raise ValueError(f"activation_fn: expected one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _fairseq_activation(config: Any) -> str:
    for name, theirs in ACTIVATIONS.items():
        if theirs == config.activation_function:
            return name
    raise ValueError(
        f"activation_function: expected one of {sorted(ACTIVATIONS.values())}, got "
        f"{config.activation_function!r}"
    )
