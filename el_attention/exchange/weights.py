"""Which parameter of fairseq is which of Transformers: a table, read in both directions."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of fairseq's table of positions before that of position 0: it counts from its padding, 1.
UNUSED_POSITIONS = 2
# Of fairseq, and no parameters: copies for the encoder of 0.12.2, 0 where they are not used.
_FAST_PATH = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")
_SHOWN = 5


class Way(enum.Enum):
    """How a parameter is kept on the other side."""

    SAME = "as it is, under all names"
    TRANSPOSED = "transposed in Transformers"
    JOINED = "side by side in Transformers, and transposed"
    POSITIONS = "without the rows before position 0 in Transformers"


@dataclass(frozen=True)
class Rule:
    """Parameters of fairseq that are parameters of Transformers.

    Attributes:
        fairseq: their names; with `Way.SAME` all of them name one.
        transformers: the same.
        way: how they are kept.
    """

    fairseq: tuple[str, ...]
    transformers: tuple[str, ...]
    way: Way = Way.SAME


def bart_rules(encoder_layers: int, decoder_layers: int) -> list[Rule]:
    """Returns the rules of a BART with one table of tokens."""
    tables = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    rules = [
        Rule(
            (*tables, "decoder.output_projection.weight"),
            ("model.shared.weight", *(f"model.{name}" for name in tables), "lm_head.weight"),
        )
    ]

    def same(name: str, *kinds: str) -> None:
        rules.extend(Rule((f"{name}.{x}",), (f"model.{name}.{x}",)) for x in kinds)

    for side, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        same(f"{side}.embed_positions", "weight")
        same(f"{side}.layernorm_embedding", "weight", "bias")
        for layer in range(layers):
            for attention in ("self_attn", "encoder_attn")[: 1 if side == "encoder" else 2]:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    same(f"{side}.layers.{layer}.{attention}.{part}", "weight", "bias")
                same(f"{side}.layers.{layer}.{attention}_layer_norm", "weight", "bias")
            for part in ("fc1", "fc2", "final_layer_norm"):
                same(f"{side}.layers.{layer}.{part}", "weight", "bias")
    return rules


def gpt2_rules(layers: int) -> list[Rule]:
    """Returns the rules of a language model; the linear layers of GPT-2 are stored as [in, out]."""
    rules = [
        Rule(
            ("decoder.embed_tokens.weight", "decoder.output_projection.weight"),
            ("transformer.wte.weight", "lm_head.weight"),
        ),
        Rule(("decoder.embed_positions.weight",), ("transformer.wpe.weight",), Way.POSITIONS),
    ]
    for kind in ("weight", "bias"):
        rules.append(Rule((f"decoder.layer_norm.{kind}",), (f"transformer.ln_f.{kind}",)))
        for layer in range(layers):
            old, new = f"decoder.layers.{layer}", f"transformer.h.{layer}"
            joined = tuple(f"{old}.self_attn.{name}_proj.{kind}" for name in "qkv")
            rules.append(Rule(joined, (f"{new}.attn.c_attn.{kind}",), Way.JOINED))
            for theirs, ours, way in (
                ("self_attn_layer_norm", "ln_1", Way.SAME),
                ("final_layer_norm", "ln_2", Way.SAME),
                ("self_attn.out_proj", "attn.c_proj", Way.TRANSPOSED),
                ("fc1", "mlp.c_fc", Way.TRANSPOSED),
                ("fc2", "mlp.c_proj", Way.TRANSPOSED),
            ):
                rules.append(Rule((f"{old}.{theirs}.{kind}",), (f"{new}.{ours}.{kind}",), way))
    return rules


def parameters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what is a parameter in a state of a model of fairseq."""
    return {
        name: weight
        for name, weight in weights.items()
        if not name.endswith((".version", "._float_tensor")) and not _FAST_PATH.fullmatch(name)
    }


def to_transformers(rules: Sequence[Rule], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns parameters of Transformers.

    Args:
        rules: the rules of the model.
        weights: parameters of fairseq by name.

    Raises:
        ValueError: if they are not those of the rules, or tied ones differ.
    """
    _check_names("fairseq", weights, [name for rule in rules for name in rule.fairseq])
    found: dict[str, Tensor] = {}
    for rule in rules:
        values = [weights[name] for name in rule.fairseq]
        if rule.way is Way.SAME:
            made = _tied(rule.fairseq, values)
        elif rule.way is Way.POSITIONS:
            made = values[0][UNUSED_POSITIONS:]
        else:
            made = torch.cat(values).t()
        found |= dict.fromkeys(rule.transformers, made.contiguous())
    return found


def to_fairseq(rules: Sequence[Rule], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns parameters of fairseq; rows of positions that no token has are 0.

    Args:
        rules: the rules of the model.
        weights: parameters of Transformers by name, tied ones under all of their names.

    Raises:
        ValueError: if they are not those of the rules, or tied ones differ.
    """
    _check_names("Transformers", weights, [name for rule in rules for name in rule.transformers])
    found: dict[str, Tensor] = {}
    for rule in rules:
        values = [weights[name] for name in rule.transformers]
        made: Iterator[Tensor] | list[Tensor]
        if rule.way is Way.SAME:
            made = [_tied(rule.transformers, values)] * len(rule.fairseq)
        elif rule.way is Way.POSITIONS:
            unused = values[0].new_zeros(UNUSED_POSITIONS, values[0].size(1))
            made = [torch.cat([unused, values[0]])]
        else:
            made = iter(values[0].t().chunk(len(rule.fairseq)))
        for name, value in zip(rule.fairseq, made, strict=True):
            found[name] = value.contiguous()
    return found


def _check_names(side: str, weights: Mapping[str, Tensor], expected: Sequence[str]) -> None:
    missing, more = sorted({*expected} - weights.keys()), sorted(weights.keys() - {*expected})
    if missing or more:
        raise ValueError(
            f"parameters of {side}: expected those that both have, without {_short(missing)}, got "
            f"{_short(more)} in addition"
        )


def _tied(names: Sequence[str], values: Sequence[Tensor]) -> Tensor:
    for name, value in zip(names, values, strict=True):
        if not torch.equal(value, values[0]):
            raise ValueError(f"parameters: expected {names[0]} and {name} to be one, they differ")
    return values[0]


def _short(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
