"""One randomised case: a model, a batch and generation options, in JSON.

`PYTHONPATH=. python tests/helpers/random_case.py '<json>'` runs a case again, and exits with 1
where the hypotheses differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import BaseFairseqModel
from fairseq.token_generation_constraints import pack_constraints
from torch import Tensor, nn

import el_attention
from el_attention.fairseq_plugin.own_limits import OwnLimitsGenerator
from el_attention.fairseq_plugin.splitting import SplittingGenerator
from reproducible import Reproducible, main
from tiny import (
    Hypotheses,
    assert_same,
    batch,
    build,
    dictionary,
    generator_of,
    prompts,
    with_own_limits,
)

ARCHITECTURES = ("transformer", "bart_base", "mbart_base", "transformer_lm_gpt2_tiny")
SEARCHES: dict[str, dict[str, Any]] = {
    "beam": {},
    "diverse beams": {"diverse_beam_groups": 2, "diverse_beam_strength": 0.6},
    "diverse siblings": {"diversity_rate": 0.3},
    "sampling": {"sampling": True},
    "top-k": {"sampling": True, "sampling_topk": 4},
    "top-p": {"sampling": True, "sampling_topp": 0.7},
    "ordered constraints": {"constraints": "ordered"},
    "unordered constraints": {"constraints": "unordered"},
    "source length": {"match_source_len": True},
}
# Who makes the batches: the user, or the product where memory is short.
#   whole: one batch, as in stock.
#   alone: one batch here, and every sentence alone in stock.
#   split: one batch for which memory does not suffice here.
#   by memory: the same, and every sentence has the limits of length that it has alone in stock.
BATCHES = ("whole", "alone", "split", "by memory")


class Repeats(nn.Module):
    """Blocks n-grams word by word, but not in rows that have ended or would have no word left.

    Nor does it block a word that a constraint of the search asks for next.  The first `skipped`
    words are part of no n-gram.
    """

    def __init__(self, size: int, eos: int, search: nn.Module, skipped: int = 0) -> None:
        super().__init__()
        self.size, self.eos, self.search, self.skipped = size, eos, search, skipped

    def forward(self, tokens: Tensor, lprobs: Tensor, _: int, __: int, step: int) -> Tensor:
        sentences = getattr(self.search, "constraint_states", None) or []
        states = [state for beams in sentences for state in beams]
        for row, scores in enumerate(lprobs):
            wanted = [int(word) for word in states[row].next_tokens()] if states else []
            asked_for = scores[wanted]
            history = tokens[row, 1 + self.skipped : step + 1].tolist()
            ngrams = [tuple(history[i : i + self.size]) for i in range(len(history))]
            possible = scores.gt(-torch.inf).nonzero().flatten().tolist()
            left = [
                word
                for word in possible
                if (*history[len(history) - self.size + 1 :], word) not in ngrams
            ]
            if self.eos not in history and left:
                scores[[word for word in possible if word not in left]] = -torch.inf
            scores[wanted] = asked_for
        return lprobs


class StockFailed(Exception):
    """Stock fairseq cannot run a case."""


class Short:
    """A generator that has memory for a few sentences only."""

    def __init__(self, generator: Any, most: int) -> None:
        self._generator, self._most = generator, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Any:
        if len(sample["net_input"]["src_tokens"]) > self._most:
            raise MemoryError
        return self._generator.generate(models, sample, **arguments)


@dataclass(frozen=True)
class Case(Reproducible):
    """A case.

    Attributes:
        architecture: one of `ARCHITECTURES`.
        plan: how to attend.
        seed: the seed of weights, words and sampling.
        words: size of the dictionary, special symbols aside.
        head_width: width of a head of the decoder.
        heads: heads of the decoder.
        encoder_width: a multiple of 4, the heads of the encoder; BART's is the decoder's.
        layers: layers of the decoder.
        pre_norm: whether norms come first.
        tied: whether the decoder's input and output embeddings are one.
        models: number of models in the ensemble.
        lengths: the lengths of the sources.
        left_pad: whether sources are padded on the left.
        prefix: lengths of the prefixes of the sentences, or empty; 0 for none in one sentence.
        search: one of `SEARCHES`.
        beam: number of beams.
        min_len: shortest hypothesis.
        max_len: longest hypothesis; with `max_len_a`, what is added to it.
        max_len_a: words of the longest hypothesis for each of the source.
        batches: one of `BATCHES`.
        lenpen: length penalty.
        temperature: the temperature of the softmax.
        suppressed: number of words that are forbidden after a prefix.
        ngrams: length of the n-grams that may not stand twice, or 0.
        unkpen: penalty of the unknown word.
        eos: factor that makes sentences end sooner.
        stock_generator: whether only the models are converted.
        retain_dropout: dropout of the attention that stays on, or 0.
        double: whether in float64.
    """

    architecture: str = "transformer"
    plan: str = "expanded-query"
    seed: int = 0
    words: int = 12
    head_width: int = 6
    heads: int = 4
    encoder_width: int = 24
    layers: int = 2
    pre_norm: bool = False
    tied: bool = False
    models: int = 1
    lengths: tuple[int, ...] = (5, 3)
    left_pad: bool = True
    prefix: tuple[int, ...] = ()
    search: str = "beam"
    beam: int = 3
    min_len: int = 1
    max_len: int = 10
    max_len_a: float = 0.0
    batches: str = "whole"
    lenpen: float = 1.0
    temperature: float = 1.0
    suppressed: int = 0
    ngrams: int = 0
    unkpen: float = 0.0
    eos: float = 2.0
    stock_generator: bool = False
    retain_dropout: float = 0.0
    double: bool = False

    @property
    def has_encoder(self) -> bool:
        return "lm" not in self.architecture

    def networks(self) -> list[BaseFairseqModel]:
        """Builds the models of the ensemble."""
        width = self.heads * self.head_width
        encoder_width = width if "bart" in self.architecture else self.encoder_width
        networks = []
        for index in range(self.models):
            model = build(
                self.architecture,
                dictionary(self.words),
                seed=self.seed + index,
                encoder_embed_dim=encoder_width,
                decoder_embed_dim=width,
                encoder_attention_heads=self.heads if encoder_width == width else 4,
                decoder_attention_heads=self.heads,
                decoder_layers=self.layers,
                encoder_layers=1 + index,
                encoder_normalize_before=self.pre_norm,
                decoder_normalize_before=self.pre_norm,
                share_decoder_input_output_embed=self.tied,
                attention_dropout=self.retain_dropout,
            )
            with torch.no_grad():
                model.decoder.output_projection.weight[model.decoder.dictionary.eos()] *= self.eos
            if self.retain_dropout:
                model.make_generation_fast_(
                    retain_dropout=True, retain_dropout_modules=["MultiheadAttention"]
                )
            networks.append(model.double() if self.double else model)
        return networks

    def options(self) -> dict[str, Any]:
        """Options of fairseq's generation configuration."""
        return {
            "beam": self.beam,
            "min_len": self.min_len,
            "max_len_a": self.max_len_a,
            "max_len_b": self.max_len,
            "lenpen": self.lenpen,
            "temperature": self.temperature,
            "unkpen": self.unkpen,
            "no_repeat_ngram_size": self.ngrams,
            **SEARCHES[self.search],
        }

    def arguments(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        symbols, arguments = dictionary(self.words), {}
        if any(self.prefix):
            arguments["prefix_tokens"] = prompts(symbols, self.prefix, self.seed)
        if "constraints" in self.search:
            phrases = prompts(symbols, [2] * len(self.lengths), self.seed + 1)
            arguments["constraints"] = pack_constraints(
                [[phrase[:1], phrase] if i % 2 else [phrase] for i, phrase in enumerate(phrases)]
            )
        return arguments

    def run(self) -> tuple[Hypotheses, Hypotheses]:
        """Generates with stock fairseq and with EL-attention, from one seed."""
        symbols, networks = dictionary(self.words), self.networks()
        words = [symbols[symbols.nspecial + i] for i in range(self.suppressed)]
        extra = {"tokens_to_suppress": words} if words else {}
        stock, ours = (generator_of(networks, symbols, self.options(), **extra) for _ in range(2))
        for generator in [stock, ours] if self.stock_generator else [stock]:
            with_own_limits(generator)
            if self.ngrams:
                blocker = Repeats(self.ngrams, symbols.eos(), generator.search)
                generator.repeat_ngram_blocker = blocker
        if self.stock_generator:
            for model in ours.model.models:
                el_attention.convert(model, self.plan)
        else:
            el_attention.convert(ours, self.plan)
        sample = batch(symbols, self.lengths, self.seed, self.left_pad)
        arguments = self.arguments()
        torch.manual_seed(self.seed)
        try:
            expected = self._expected(stock, sample, arguments, symbols.pad())
        except (AssertionError, RuntimeError) as error:
            # It runs past the longest length where forced words leave it no candidate, and cannot
            # draw where the probabilities of all that is allowed round to 0.
            raise StockFailed(str(error)) from error
        torch.manual_seed(self.seed)
        return expected, self._in_batches(ours).generate(None, sample, **arguments)

    def _expected(
        self, stock: Any, sample: dict[str, Any], arguments: dict[str, Tensor], pad: int
    ) -> Hypotheses:
        """What stock fairseq generates, for a sentence at a time where the product must."""
        if self.batches in ("alone", "by memory"):
            return [
                stock.generate(None, *args, **kwargs)[0]
                for args, kwargs in each_alone(sample, arguments, pad)
            ]
        hypotheses: Hypotheses = stock.generate(None, sample, **arguments)
        return hypotheses

    def _in_batches(self, generator: Any) -> Any:
        """Returns what the task puts before a generator, with memory for half of the sentences."""
        if self.batches == "by memory":
            generator = OwnLimitsGenerator(generator)
        if self.batches in ("split", "by memory"):
            # With `match_source_len`, the longest source comes along with every part.
            least = 2 if self.search == "source length" else 1
            generator = SplittingGenerator(Short(generator, max(least, len(self.lengths) // 2)))
        return generator

    def check(self) -> None:
        """Asserts that both give the same tokens and scores."""
        stock, ours = self.run()
        # Stock fairseq computes softmax in float32, in float64 too.
        assert_same(stock, ours, tolerance=1e-6 if self.double else 1e-5)


def each_alone(
    sample: dict[str, Any], arguments: dict[str, Tensor], pad: int
) -> Iterator[tuple[tuple[dict[str, Any]], dict[str, Tensor]]]:
    """Yields the arguments of `generate` for each sentence of a batch, without padding."""
    for sentence, tokens in enumerate(sample["net_input"]["src_tokens"]):
        own = {name: value[sentence : sentence + 1] for name, value in arguments.items()}
        if "prefix_tokens" in own:
            prefix = own.pop("prefix_tokens")
            if prefix.ne(pad).any():
                own["prefix_tokens"] = prefix[:, prefix[0].ne(pad)]
        source = tokens[tokens.ne(pad)].unsqueeze(0)
        net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}
        yield ({"id": torch.tensor([0]), "net_input": net_input},), own


if __name__ == "__main__":
    sys.exit(main(Case))
