"""Tiny random fairseq models, batches and comparisons that the tests share."""

from __future__ import annotations

import copy
import zlib
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from fairseq import models, tasks
from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

import el_attention

PLANS = ("expanded-query", "shared-projection")
FAMILIES = ("transformer", "bart", "lm")

Hypotheses = list[list[dict[str, Tensor]]]


def dictionary(words: int = 12) -> Dictionary:
    """A dictionary of `words` words and fairseq's four special symbols."""
    symbols = Dictionary()
    for index in range(words):
        symbols.add_symbol(f"w{index}")
    return symbols


class TinyTask(tasks.FairseqTask):
    """A task that holds a dictionary and builds fairseq's own generators."""

    def __init__(self, symbols: Dictionary, plan: str | None = None) -> None:
        super().__init__(Namespace(attention_plan=plan))
        self.symbols = symbols

    @property
    def source_dictionary(self) -> Dictionary:
        return self.symbols

    @property
    def target_dictionary(self) -> Dictionary:
        return self.symbols


class OwnLimits(SequenceGenerator):
    """Stock, but that a sentence has its limits once its own prefix is over, as if alone."""

    def _prefix_tokens(
        self, step: int, lprobs: Tensor, scores: Tensor, tokens: Tensor, prefix: Tensor, beam: int
    ) -> Any:
        result = super()._prefix_tokens(step, lprobs, scores, tokens, prefix, beam)
        for row in range(len(lprobs)):
            if set(prefix[row // beam, step:].tolist()) == {self.pad}:
                if step < self.min_len:
                    result[0][row, self.eos] = -torch.inf
                if self.token_indices_to_suppress is not None:
                    result[0][row, self.token_indices_to_suppress] = -torch.inf
        return result


def with_own_limits(generator: SequenceGenerator) -> SequenceGenerator:
    """Makes a stock generator one of `OwnLimits`, if it is of no other class."""
    if type(generator) is SequenceGenerator:
        generator.__class__ = OwnLimits
    return generator


def arguments(family: str, **options: Any) -> Namespace:
    """The options of a tiny model of a family (an architecture name works too)."""
    sizes = {
        "encoder_embed_dim": 24,
        "decoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "decoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "max_source_positions": 64,
        "max_target_positions": 64,
        "tokens_per_sample": 64,
        "share_all_embeddings": False,
        "share_decoder_input_output_embed": False,
        "dropout": 0.1,
        "attention_dropout": 0.1,
    }
    architecture = {"bart": "bart_base", "lm": "transformer_lm_gpt2_tiny"}.get(family, family)
    options = {**sizes, **options}
    if "decoder_input_dim" not in options:
        options["decoder_input_dim"] = options["decoder_output_dim"] = options["decoder_embed_dim"]
    args = Namespace(arch=architecture, _name=None, **options)
    models.ARCH_CONFIG_REGISTRY[architecture](args)
    return args


def build(family: str, symbols: Dictionary, seed: int = 0, **options: Any) -> BaseFairseqModel:
    """Builds a random model of a family (an architecture name works too), in eval mode."""
    torch.manual_seed(seed)
    model = models.build_model(arguments(family, **options), TinyTask(symbols)).eval()
    # Far from uniform, so that beams differ, and with biases, which fairseq starts at zero.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.05
            if "q_proj" in name or "k_proj" in name:
                scale = 0.3
            elif "embed_tokens" in name or "output_projection" in name:
                scale = 0.6
            parameter.add_(scale * noise_for(name, parameter, seed))
    return model


def noise_for(name: str, parameter: Tensor, seed: int) -> Tensor:
    """Normal noise that depends on the parameter's name and not on the parameters before it.

    fairseq 0.12.2 has parameters of its own in encoders, which must not change what others get.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)


def batch(
    symbols: Dictionary, lengths: Sequence[int], seed: int = 0, left_pad: bool = True
) -> dict[str, Any]:
    """A batch of random sources that end in eos, padded on one side."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    tokens = torch.full((len(lengths), longest), symbols.pad())
    for row, length in zip(tokens, lengths, strict=True):
        words = torch.randint(symbols.nspecial, len(symbols), (length - 1,), generator=generator)
        sentence = torch.cat([words, torch.tensor([symbols.eos()])])
        row[longest - length if left_pad else 0 :][:length] = sentence
    net_input = {"src_tokens": tokens, "src_lengths": torch.tensor(lengths)}
    return {"id": torch.arange(len(lengths)), "net_input": net_input}


def prompts(symbols: Dictionary, lengths: Sequence[int], seed: int = 0) -> Tensor:
    """Random right-padded prefixes, without eos: int64 [len(lengths), max(lengths)]."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), symbols.pad())
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(symbols.nspecial, len(symbols), (length,), generator=generator)
    return tokens


def generator_of(
    networks: Sequence[BaseFairseqModel],
    symbols: Dictionary,
    options: dict[str, Any],
    **extra: Any,
) -> SequenceGenerator:
    """Builds a stock generator over copies of `networks`, as fairseq-generate does.

    `options` are attributes of fairseq's generation configuration (beam, lenpen, sampling, ...);
    `extra` goes to the generator's constructor (lm_model, tokens_to_suppress).
    """
    return TinyTask(symbols).build_generator(
        [copy.deepcopy(network) for network in networks],
        Namespace(**options),
        extra_gen_cls_kwargs=extra,
    )


def generate_both(
    networks: Sequence[BaseFairseqModel],
    symbols: Dictionary,
    sample: dict[str, Any],
    plan: str,
    options: dict[str, Any],
    seed: int = 0,
    **arguments: Any,
) -> tuple[Hypotheses, Hypotheses]:
    """Generates with stock fairseq and with EL-attention, from fresh copies and one seed.

    `arguments` go to `generator.generate` (prefix_tokens, constraints, bos_token).
    """
    results = []
    for plan_or_none in (None, plan):
        generator = generator_of(networks, symbols, options)
        if plan_or_none is None:
            with_own_limits(generator)
        else:
            el_attention.convert(generator, plan_or_none)
        torch.manual_seed(seed)
        results.append(generator.generate(None, copy.deepcopy(sample), **arguments))
    return results[0], results[1]


def diverse(
    family: str,
    symbols: Dictionary,
    sample: dict[str, Any],
    options: dict[str, Any],
    **arguments: Any,
) -> BaseFairseqModel:
    """The first random model whose stock hypotheses are long and end at many different steps.

    Which seed that is depends on fairseq's version: its encoders differ in their parameters.
    """
    for seed in range(40):
        model = build(family, symbols, seed)
        stock = generator_of([model], symbols, options).generate(None, sample, **arguments)
        lengths = {len(h["tokens"]) for sentence in stock for h in sentence}
        if len(lengths) > 5 and max(lengths) > 12:
            return model
    raise AssertionError("no seed gives diverse hypotheses")


def assert_same(stock: Hypotheses, ours: Hypotheses, tolerance: float = 1e-5) -> None:
    """Asserts equal tokens, and scores equal to a tolerance relative to the words' own scores.

    A hypothesis' score is a sum. Its rounding grows with the magnitudes summed, which a negative
    penalty of the unknown word, a bonus, makes larger than the sum itself.
    """
    assert len(stock) == len(ours)
    for sentence, (expected, got) in enumerate(zip(stock, ours, strict=True)):
        assert [h["tokens"].tolist() for h in expected] == [h["tokens"].tolist() for h in got], (
            f"sentence {sentence}"
        )
        for one, other in zip(expected, got, strict=True):
            # Beam search sums scores; a position's own score is a difference of two sums.
            magnitudes = one["positional_scores"].abs().cumsum(0)
            sums = one["positional_scores"].cumsum(0)
            errors = (other["positional_scores"].cumsum(0) - sums).abs()
            assert (errors <= tolerance * (1 + magnitudes)).all(), f"{sentence=} {errors=} {sums=}"
            cancelled = float(magnitudes[-1] / sums[-1].abs().clamp(min=tolerance))
            torch.testing.assert_close(
                torch.as_tensor(other["score"]),
                torch.as_tensor(one["score"]),
                rtol=tolerance * cancelled,
                atol=tolerance,
            )
