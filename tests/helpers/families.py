"""Model families and generation features that the tests of generation share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from fairseq.models import BaseFairseqModel
from fairseq.token_generation_constraints import pack_constraints
from torch import Tensor

import el_attention
from tiny import (
    Hypotheses,
    batch,
    build,
    dictionary,
    generator_of,
    noise_for,
    prompts,
    with_own_limits,
)

PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}

# Family -> architecture, its options, and a seed whose hypotheses end at many different steps.
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "transformer": ("transformer", {}, 6),
    "pre-norm": ("transformer", PRE_NORM, 3),
    "bart": ("bart", {}, 3),
    "mbart": ("mbart_base", {}, 2),
    "lm": ("lm", {}, 4),
}
WITH_ENCODER = tuple(family for family in FAMILIES if family != "lm")
LENGTHS = (9, 5, 7, 2)  # of the sources
PROMPTS = (4, 1, 2, 6)  # lengths of the prompts of language models

SYMBOLS = dictionary(36)


def enliven(model: BaseFairseqModel, seed: int, eos: float = 2.0) -> BaseFairseqModel:
    """Makes attention matter more and sentences end sooner; changes `model` in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "v_proj" in name or "attn.out_proj" in name:
                parameter += 0.1 * noise_for(name, parameter, seed + 100)
            elif "embed_positions" in name:
                parameter += 0.3 * noise_for(name, parameter, seed + 100)
        if getattr(model.decoder, "output_projection", None) is not None:
            model.decoder.output_projection.weight[SYMBOLS.eos()] *= eos
    return model


@cache
def model_of(family: str, seed: int | None = None, **options: Any) -> BaseFairseqModel:
    """The random model of a family; shared, so it must be copied before it is changed."""
    architecture, own, seed_of_family = FAMILIES[family]
    seed = seed_of_family if seed is None else seed
    return enliven(build(architecture, SYMBOLS, seed, **{**own, **options}), seed)


def arguments_of(family: str) -> dict[str, Tensor]:
    """What `generate` needs: ragged prompts for a language model, else nothing."""
    return {} if family in WITH_ENCODER else {"prefix_tokens": prompts(SYMBOLS, PROMPTS)}


def words(*rows: list[int]) -> Tensor:
    """Prefixes of given words (an eos is written -1), right-padded."""
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), SYMBOLS.pad())
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row)] = torch.tensor(
            [SYMBOLS.eos() if word < 0 else SYMBOLS.nspecial + word for word in row]
        )
    return tokens


def constraints() -> Tensor:
    """Two words and a phrase, none, one word, a word twice."""
    phrases = [[[9], [30], [4, 5]], [], [[7]], [[11], [11]]]
    return pack_constraints([[torch.tensor(phrase) for phrase in row] for row in phrases])


def allowed(sentence: int, tokens: Tensor) -> list[int]:
    """Tokens that may follow: eos, and the words of one parity that depends on all before."""
    if len(tokens) <= max(PROMPTS):  # prompts stay possible
        return list(range(len(SYMBOLS)))
    parity = int(tokens.sum() + sentence) % 2
    return [SYMBOLS.eos(), *range(SYMBOLS.nspecial + parity, len(SYMBOLS), 2)]


@dataclass(frozen=True)
class Feature:
    """A generation feature: how to ask fairseq for it.

    Attributes:
        options: the options of fairseq's generation configuration.
        arguments: for `generate`; replaces `arguments_of`.
        extra: makes arguments for the generator's constructor.
        lengths: the lengths of the sources.
        left_pad: whether the sources are padded on the left.
        families: those for which stock fairseq supports it.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = None
    extra: Callable[[], dict[str, Any]] = dict
    lengths: tuple[int, ...] = LENGTHS
    left_pad: bool = True
    families: tuple[str, ...] = tuple(FAMILIES)

    def sample(self) -> dict[str, Any]:
        """A batch of sources."""
        return batch(SYMBOLS, self.lengths, left_pad=self.left_pad)

    def generation_options(self) -> dict[str, Any]:
        """All options, with short hypotheses and beam 4 where nothing else is said."""
        return {"beam": 4, "max_len_b": 14, **self.options}

    def generation_arguments(self, family: str) -> dict[str, Any]:
        """Arguments for `generate`."""
        return dict(arguments_of(family) if self.arguments is None else self.arguments)


def fusion() -> dict[str, Any]:
    """Another language model, whose scores are added."""
    return {"lm_model": model_of("lm", 5), "lm_weight": 0.4}


DEFAULT = Feature()
FEATURES: dict[str, Feature] = {
    "beam 1": Feature({"beam": 1}),
    "beam 2": Feature({"beam": 2}),
    "beam 5": Feature({"beam": 5}),
    "beam 32": Feature({"beam": 32, "max_len_b": 9}),
    "diverse beams": Feature({"beam": 6, "diverse_beam_groups": 3, "diverse_beam_strength": 0.7}),
    "diverse siblings": Feature({"diversity_rate": 0.4}),
    "sampling": Feature({"sampling": True}),
    "sampling top-k": Feature({"sampling": True, "sampling_topk": 5}),
    "sampling top-p": Feature({"sampling": True, "sampling_topp": 0.8}),
    "prefix": Feature(
        arguments={"prefix_tokens": prompts(SYMBOLS, [1, 3, 2, 5])}, families=WITH_ENCODER
    ),
    "prefix that ends": Feature(
        arguments={"prefix_tokens": words([5, 9, -1], [3], [8, 8, 8, 8, -1], [7, 1])}
    ),
    "no prompt": Feature(arguments={}, lengths=(3, 2), families=("lm",)),
    "beginning of sentence": Feature(
        arguments={"prefix_tokens": prompts(SYMBOLS, PROMPTS), "bos_token": SYMBOLS.bos()}
    ),
    "ordered constraints": Feature(
        {"constraints": "ordered", "beam": 8}, arguments={"constraints": constraints()}
    ),
    "unordered constraints": Feature(
        {"constraints": "unordered", "beam": 8}, arguments={"constraints": constraints()}
    ),
    "lengths": Feature({"min_len": 6, "max_len_b": 7}),
    "relative length": Feature({"max_len_a": 0.5, "max_len_b": 4}),
    "source length": Feature({"match_source_len": True}),
    "length penalty": Feature({"lenpen": 2.5}),
    "unnormalized": Feature({"unnormalized": True}),
    "temperature": Feature({"temperature": 1.8}),
    "unknown word penalty": Feature({"unkpen": -4.0}),
    "suppressed words": Feature(
        extra=lambda: {"tokens_to_suppress": [SYMBOLS[word] for word in range(4, 24)]}
    ),
    "allowed words": Feature({"prefix_allowed_tokens_fn": allowed}),
    "language-model fusion": Feature(extra=fusion),
    "right padding": Feature(left_pad=False, lengths=(2, 9, 4, 7), families=WITH_ENCODER),
    "equal lengths": Feature(lengths=(6, 6, 6, 6), families=WITH_ENCODER),
    "one sentence": Feature(lengths=(5,), families=WITH_ENCODER),
}


def generate(
    models: Sequence[BaseFairseqModel],
    family: str,
    feature: Feature = DEFAULT,
    plan: str | None = None,
    seed: int = 0,
) -> Hypotheses:
    """Generates from copies of `models`: with stock fairseq, or converted to a plan."""
    generator = generator_of(models, SYMBOLS, feature.generation_options(), **feature.extra())
    if plan is None:
        with_own_limits(generator)
    else:
        el_attention.convert(generator, plan)
    torch.manual_seed(seed)
    return generator.generate(None, feature.sample(), **feature.generation_arguments(family))


# The modules that keep their dropout while `retaining` models generate.
RETAINED = ["MultiheadAttention"]


def retaining(family: str, modules: list[str] | None = RETAINED) -> BaseFairseqModel:
    """A model that drops while it generates, and whose value biases matter."""
    model = copy.deepcopy(model_of(family, None, attention_dropout=0.3, dropout=0.2))
    with torch.no_grad():
        for layer in model.decoder.layers:
            for attention in (layer.self_attn, layer.encoder_attn):
                if attention is not None:
                    attention.v_proj.bias += torch.linspace(-1, 1, attention.embed_dim)
    model.make_generation_fast_(retain_dropout=True, retain_dropout_modules=modules)
    return model
