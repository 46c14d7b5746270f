"""fairseq checkpoints in models of Transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import MEL_BINS, POSITIONS, SEED, SOUND, Model
from el_attention.cost import Architecture
from el_attention.exchange import bart_rules, gpt2_rules, parameters, to_transformers
from el_attention.exchange.options import TOKENS


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
        return filled(
            transformers.GPT2LMHeadModel(config),
            to_transformers(gpt2_rules(sizes.decoder.layers), parameters(weights)),
        )
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
        return filled(network, bart_weights(weights, sizes))
    # Marian's Transformer is that of the paper, as is fairseq's.
    network = transformers.MarianMTModel(
        transformers.MarianConfig(**options, activation_function="relu", scale_embedding=True)
    )
    positions = sinusoidal_positions(sizes.decoder.width)
    network = filled(network, bart_weights(weights, sizes))
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
        # See `weights.write_checkpoint`.
        ends = [network.config.pad_token_id, network.config.eos_token_id]
        network.get_output_embeddings().weight[ends] = 0
    return network.eval()


def save(model: Model, folder: Path, words: list[str]) -> None:
    """Writes a model as `from_pretrained` reads it, with a tokenizer of words."""
    import tokenizers
    import transformers

    network = load(model, folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    config = network.config
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, words[-1])),
        bos_token=words[0],
        pad_token=words[config.pad_token_id],
        eos_token=words[config.eos_token_id],
        unk_token=words[-1],
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


def bart_weights(weights: dict[str, Tensor], sizes: Architecture) -> dict[str, Tensor]:
    """Parameters of an encoder and decoder, of BART or without its positions and norms."""
    assert sizes.encoder is not None
    own = parameters(weights)
    rules = bart_rules(sizes.encoder.layers, sizes.decoder.layers)
    return to_transformers([rule for rule in rules if {*rule.fairseq} <= own.keys()], own)


def sinusoidal_positions(width: int) -> Tensor:
    """The encodings that fairseq gives positions 0, 1, ...: float32 [POSITIONS, width]."""
    from fairseq.modules import SinusoidalPositionalEmbedding

    pad = TOKENS["pad_token_id"]
    table = SinusoidalPositionalEmbedding.get_embedding(POSITIONS + pad + 1, width, pad)
    return table[pad + 1 :]
