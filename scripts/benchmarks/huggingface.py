"""fairseq checkpoints in models of Transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import MEL_BINS, POSITIONS, SEED, SOUND, Model

# fairseq's: <s>, <pad>, </s>. It begins every sequence with </s>.
TOKENS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def load(model: Model, folder: Path) -> Any:
    """The model of Transformers that computes what a checkpoint of fairseq does, in eval mode."""
    import transformers

    from benchmarks.weights import read_weights

    if not model.is_of_fairseq:
        return random_model(model)
    weights, sizes = read_weights(folder), model.sizes
    if sizes.encoder is None:
        config = transformers.GPT2Config(
            vocab_size=sizes.vocabulary,
            n_positions=POSITIONS,
            n_embd=sizes.decoder.width,
            n_layer=sizes.decoder.layers,
            n_head=sizes.decoder.heads,
            n_inner=sizes.decoder.ffn,
            **TOKENS,
        )
        return filled(transformers.GPT2LMHeadModel(config), gpt2_weights(weights))
    options: dict[str, Any] = {
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": POSITIONS,
        "d_model": sizes.decoder.width,
        "decoder_start_token_id": TOKENS["eos_token_id"],
        "forced_eos_token_id": None,
        **TOKENS,
    }
    for side, stack in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        options |= {
            f"{side}_layers": stack.layers,
            f"{side}_ffn_dim": stack.ffn,
            f"{side}_attention_heads": stack.heads,
        }
    if model.family == "bart":
        network: Any = transformers.BartForConditionalGeneration(transformers.BartConfig(**options))
        return filled(network, bart_weights(weights))
    # Marian's Transformer is that of the paper, as is fairseq's.
    network = transformers.MarianMTModel(
        transformers.MarianConfig(**options, activation_function="relu", scale_embedding=True)
    )
    positions = sinusoidal_positions(sizes.decoder.width)
    network = filled(network, bart_weights(weights))
    for stack in (network.model.encoder, network.model.decoder):
        stack.embed_positions.weight.data.copy_(positions)
    return network


def random_model(model: Model) -> Any:
    """A model of a family that fairseq does not have, with weights whose hypotheses hardly tie."""
    import transformers

    sizes = model.sizes
    assert sizes.encoder is not None
    options: dict[str, Any] = {"vocab_size": sizes.vocabulary, "d_model": sizes.decoder.width}
    if model.family == "t5":
        options |= {
            "d_ff": sizes.decoder.ffn,
            "d_kv": sizes.decoder.width // sizes.decoder.heads,
            "num_layers": sizes.encoder.layers,
            "num_decoder_layers": sizes.decoder.layers,
            "num_heads": sizes.decoder.heads,
            "decoder_start_token_id": 0,
        }
    for side, stack in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        options |= {
            f"{side}_layers": stack.layers,
            f"{side}_ffn_dim": stack.ffn,
            f"{side}_attention_heads": stack.heads,
        }
    kinds = {
        "m2m_100": (transformers.M2M100Config, transformers.M2M100ForConditionalGeneration),
        "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
        "whisper": (transformers.WhisperConfig, transformers.WhisperForConditionalGeneration),
    }
    if model.family == "whisper":
        options |= {**TOKENS, "num_mel_bins": MEL_BINS, "max_source_positions": SOUND}
        options |= {"suppress_tokens": None, "begin_suppress_tokens": None}
    config, kind = kinds[model.family]
    torch.manual_seed(SEED)
    network: Any = kind(config(**options))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            gain = 3.0 if "embed" in name or "shared" in name else 1.0
            gain *= 0.1 if "norm" in name else 1.0
            parameter += gain / sizes.decoder.width**0.5 * torch.randn_like(parameter)
    return network.eval()


def filled(network: nn.Module, weights: dict[str, Tensor]) -> Any:
    """`network` with weights, in eval mode.

    Raises:
        ValueError: if some of its parameters are not among them, or the reverse.
    """
    missing, unexpected = network.load_state_dict(weights, strict=False)
    names = {name for name, _ in network.named_parameters()}
    missing = sorted(name for name in missing if name in names and "embed_positions" not in name)
    if missing or unexpected:
        raise ValueError(
            f"weights: expected those of the model, without {missing}, got {unexpected}"
        )
    return network.eval()


# Copies for the encoder of fairseq 0.12.2, 0 where they are not used.
FAST_PATH = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


def bart_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of an encoder and decoder by their names in Transformers."""
    converted = {
        f"model.{name}": weight
        for name, weight in weights.items()
        if not name.endswith(("version", "_float_tensor", "output_projection.weight"))
        and not FAST_PATH.fullmatch(name)
    }
    converted["model.shared.weight"] = weights["decoder.embed_tokens.weight"]
    converted["lm_head.weight"] = weights["decoder.output_projection.weight"]
    return converted


def gpt2_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a language model by their names in Transformers' GPT-2.

    Its linear layers are stored as [in, out].
    """
    converted = {
        "transformer.wte.weight": weights["decoder.embed_tokens.weight"],
        "lm_head.weight": weights["decoder.embed_tokens.weight"],
        # fairseq counts positions from its padding index, 1, plus 1.
        "transformer.wpe.weight": weights["decoder.embed_positions.weight"][2:],
    }
    for kind in ("weight", "bias"):
        converted[f"transformer.ln_f.{kind}"] = weights[f"decoder.layer_norm.{kind}"]
    names = {
        "self_attn_layer_norm": "ln_1",
        "final_layer_norm": "ln_2",
        "self_attn.out_proj": "attn.c_proj",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    }
    layer = 0
    while (old := f"decoder.layers.{layer}") + ".fc1.weight" in weights:
        for kind in ("weight", "bias"):
            joined = torch.cat([weights[f"{old}.self_attn.{name}_proj.{kind}"] for name in "qkv"])
            converted[f"transformer.h.{layer}.attn.c_attn.{kind}"] = joined.t()
            for theirs, ours in names.items():
                weight = weights[f"{old}.{theirs}.{kind}"]
                converted[f"transformer.h.{layer}.{ours}.{kind}"] = weight.t()
        layer += 1
    return converted


def sinusoidal_positions(width: int) -> Tensor:
    """The encodings that fairseq gives positions 0, 1, ...: float32 [POSITIONS, width]."""
    from fairseq.modules import SinusoidalPositionalEmbedding

    pad = TOKENS["pad_token_id"]
    table = SinusoidalPositionalEmbedding.get_embedding(POSITIONS + pad + 1, width, pad)
    return table[pad + 1 :]
