"""Hugging Face GPT-2 weights -> a fairseq language-model checkpoint, its dictionary and its BPE.

Reads config.json, model.safetensors, vocab.json and merges.txt; writes model.pt, dict.txt,
encoder.json and vocab.bpe. The checkpoint has exactly the tokens of GPT-2, so that its
probabilities are GPT-2's: fairseq's </s> is <|endoftext|>, and its <s>, <pad> and <unk> take the
places of three tokens for single bytes that occur in no UTF-8 text.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.acquire import DataError, Policy, Published, add_policy_options, obtain, policy_of
from common.lines import read_lines, write_lines
from el_attention.exchange import gpt2_rules, to_fairseq
from el_attention.exchange.convert import save_checkpoint

MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")

ORIGIN = """\
GPT-2: Radford et al. (2019), https://github.com/openai/gpt-2, modified MIT licence; as converted
for Transformers, https://huggingface.co/openai-community."""

END_OF_TEXT = "<|endoftext|>"
# Bytes that UTF-8 never uses, by the characters that GPT-2's vocabulary writes them with.
UNUSED_BYTES = ("\u00c0", "\u00c1", "\u00f5")

# fairseq's gelu_accurate is the approximation with tanh, as is Transformers' gelu_new.
ACTIVATIONS = {"gelu_new": "gelu_accurate", "gelu": "gelu", "relu": "relu"}

# What fairseq's decoder computes; a configuration that asks for anything else is refused.
REQUIRED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def check_config(config: dict[str, Any]) -> None:
    """Refuse what fairseq's decoder does not compute.

    Raises:
        DataError: naming the setting.
    """
    for name, expected in REQUIRED.items():
        found = config.get(name, expected)
        if found != expected:
            raise DataError(f"config.json: {name} is {found!r}, fairseq has {expected!r} only")
    activation = config["activation_function"]
    if activation not in ACTIVATIONS:
        raise DataError(
            f"config.json: activation_function is {activation!r}, expected one of "
            f"{sorted(ACTIVATIONS)}"
        )


def token_order(vocabulary: dict[str, int]) -> list[int]:
    """GPT-2's number of each token of the fairseq dictionary: <s>, <pad>, </s>, <unk>, the rest.

    Raises:
        DataError: if the vocabulary is not byte-level or its numbers are not 0, 1, 2, ...
    """
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise DataError(f"vocab.json: its {len(vocabulary)} numbers are not 0, 1, 2, ...")
    missing = [token for token in (*UNUSED_BYTES, END_OF_TEXT) if token not in vocabulary]
    if missing:
        raise DataError(f"vocab.json: no tokens {missing}: not the vocabulary of GPT-2")
    bos, pad, unk = (vocabulary[token] for token in UNUSED_BYTES)
    special = [bos, pad, vocabulary[END_OF_TEXT], unk]
    return special + [number for number in range(len(vocabulary)) if number not in special]


def model_arguments(config: dict[str, Any]) -> Namespace:
    """The options of fairseq-train that describe the same model."""
    width, positions = config["n_embd"], config["n_positions"]
    return Namespace(
        task="language_modeling",
        # fairseq's names of GPT-2 architectures are of other sizes than OpenAI's: all are given.
        arch="transformer_lm_gpt",
        decoder_embed_dim=width,
        decoder_input_dim=width,
        decoder_output_dim=width,
        decoder_ffn_embed_dim=config.get("n_inner") or 4 * width,
        decoder_layers=config["n_layer"],
        decoder_attention_heads=config["n_head"],
        decoder_learned_pos=True,
        no_scale_embedding=True,
        share_decoder_input_output_embed=True,
        activation_fn=ACTIVATIONS[config["activation_function"]],
        dropout=config.get("resid_pdrop", 0.1),
        attention_dropout=config.get("attn_pdrop", 0.1),
        tokens_per_sample=positions,
        max_target_positions=positions,
        sample_break_mode="eos",
    )


def convert_weights(weights: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """The parameters of fairseq's language model.

    Args:
        weights: the weights of Transformers' GPT2Model or GPT2LMHeadModel.
        order: GPT-2's number of each token of fairseq's dictionary.

    Returns:
        float32 parameters by their names in fairseq.

    Raises:
        DataError: if the weights are not those of a GPT-2 with tied embeddings.
    """
    prefix = "transformer."
    named = {
        prefix + name.removeprefix(prefix): weight.float()
        for name, weight in weights.items()
        # Masks that old versions of Transformers saved are no parameters.
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    tokens = named.get(f"{prefix}wte.weight", torch.empty(0))
    if len(tokens) != len(order):
        raise DataError(f"vocab.json has {len(order)} tokens, model.safetensors {len(tokens)}")
    if not torch.equal(named.pop(f"{prefix}lm_head.weight", tokens), tokens):
        raise DataError("model.safetensors: lm_head.weight and wte.weight are not tied")
    named["lm_head.weight"] = named[f"{prefix}wte.weight"] = tokens[order]
    layers = {name.split(".")[2] for name in named if name.startswith(f"{prefix}h.")}
    try:
        return to_fairseq(gpt2_rules(len(layers)), named)
    except ValueError as error:
        raise DataError(f"model.safetensors: {error}") from None


def convert(source: Path, output: Path) -> None:
    """Convert the files in `source` to a folder that fairseq can load.

    Raises:
        DataError: if they are not those of a GPT-2 that fairseq can compute.
    """
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise DataError("safetensors is missing: pip install 'el-attention[examples]'") from None

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    check_config(config)
    order = token_order(json.loads((source / "vocab.json").read_text(encoding="utf-8")))
    arguments = model_arguments(config)
    parameters = convert_weights(load_file(source / "model.safetensors"), order)
    layers = sum(name.endswith(".fc1.weight") for name in parameters)
    if layers != arguments.decoder_layers:
        raise DataError(
            f"config.json: {arguments.decoder_layers} layers, the weights have {layers}"
        )

    output.mkdir(parents=True, exist_ok=True)
    write_lines(output / "dict.txt", (f"{number} 1" for number in order[4:]))
    (output / "encoder.json").write_bytes((source / "vocab.json").read_bytes())
    # fairseq skips the first line, a version, and needs a line feed after the last.
    merges = [line for line in read_lines(source / "merges.txt") if not line.startswith("#version")]
    write_lines(output / "vocab.bpe", ["#version: 0.2", *merges])
    save_checkpoint(arguments, parameters, output / "model.pt")


def published(name: str) -> list[Published]:
    """The files of a released model."""
    host = f"https://huggingface.co/openai-community/{name}/resolve/main/"
    return [Published(file, host + file) for file in FILES]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=MODELS, help="the released model to download if asked to")
    parser.add_argument("source", type=Path, help="folder with the files, or for them")
    parser.add_argument("output", type=Path, help="folder to write")
    add_policy_options(parser)
    args = parser.parse_args()
    policy: Policy = policy_of(args)
    try:
        obtain(args.source, published(args.name), ORIGIN, policy)
        convert(args.source, args.output)
    except (DataError, OSError, json.JSONDecodeError) as error:
        sys.exit(f"convert.py: {error}")


if __name__ == "__main__":
    main()
