"""Our beam search against stock fairseq's generator, over a model that is a table of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel, FairseqDecoder, FairseqEncoder
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from el_attention.ops import log_sum_exp
from el_attention.search import Settings, beam_search
from tiny import Hypotheses, assert_same, dictionary

STATES = 1009  # that histories are mapped to: many, since equal scores may come in any order


@dataclass(frozen=True)
class Table:
    """Logits that depend on the sentence and on all words so far.

    Attributes:
        logits: [sentences, STATES, V].
    """

    logits: Tensor

    def score(self, sentences: Tensor, tokens: Tensor) -> Tensor:
        """Logits after `tokens`, int64 [N, T], of `sentences`, int64 [N]."""
        state = torch.zeros_like(sentences)
        for column in tokens.unbind(1):
            state = (31 * state + column + 1) % STATES
        return self.logits[sentences, state]


class Encoder(FairseqEncoder):
    """Its output is the number of every sentence."""

    def forward(self, src_tokens: Tensor, **_: Any) -> Tensor:
        return torch.arange(len(src_tokens))

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> Tensor:
        return self.forward(net_input["src_tokens"])

    def reorder_encoder_out(self, encoder_out: Tensor, new_order: Tensor) -> Tensor:
        return encoder_out[new_order]


class Decoder(FairseqDecoder):
    """Reads the table, without incremental state."""

    def __init__(self, symbols: Any, table: Table) -> None:
        super().__init__(symbols)
        self.table = table

    def forward(self, tokens: Tensor, encoder_out: Tensor) -> tuple[Tensor, None]:
        return self.table.score(encoder_out, tokens).unsqueeze(1), None


class Model(BaseFairseqModel):
    """What stock fairseq's generator takes."""

    def __init__(self, symbols: Any, table: Table) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(symbols), Decoder(symbols, table)

    def max_decoder_positions(self) -> int:
        return 100


class TableScorer:
    """What our search takes."""

    def __init__(self, table: Table, beam: int, temperature: float, at_once: bool) -> None:
        self.table, self.temperature, self.at_once = table, temperature, at_once
        self.sentences = torch.arange(len(table.logits)).repeat_interleave(beam)
        self.calls: list[tuple[int, ...]] = []  # shapes of the tokens

    def score(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(tuple(tokens.shape))
        logits = self.table.score(self.sentences, tokens) / self.temperature
        return logits, log_sum_exp(logits)

    def score_prefix(self, tokens: Tensor) -> Tensor | None:
        if not self.at_once:
            return None
        read = torch.cat([torch.full_like(tokens[:, :1], START), tokens], 1)
        sentences, scores = torch.arange(len(tokens)), []
        for place in range(tokens.size(1)):
            logits = self.table.score(sentences, read[:, : place + 1]) / self.temperature
            lprobs = logits.log_softmax(-1, torch.float32)
            scores.append(lprobs.gather(1, tokens[:, place : place + 1]))
        return torch.cat(scores, 1)

    def reorder(self, parents: Tensor) -> None:
        self.sentences = self.sentences[parents]


START = 0  # bos


@dataclass(frozen=True)
class Case:
    """A search.

    Attributes:
        words: the words of the dictionary, special symbols aside.
        seed: the seed of the table.
        sources: lengths of the sources.
        beam: beams, cut to all words but padding.
        options: the options of stock fairseq's generator.
        prefix: words of every sentence; -1 is eos, -2 padding.
        eos: added to the logit of eos.
        holes: share of logits that are -inf.
        nans: share of rows that hold a NaN.
        at_once: whether the scorer scores prefixes in one call.
        half: whether logits are float16.
    """

    words: int = 9
    seed: int = 0
    sources: tuple[int, ...] = (3, 5)
    beam: int = 3
    options: tuple[tuple[str, Any], ...] = ()
    prefix: tuple[tuple[int, ...], ...] = ()
    eos: float = 1.0
    holes: float = 0.0
    nans: float = 0.0
    at_once: bool = True
    half: bool = False

    def table(self) -> Table:
        symbols = dictionary(self.words)
        random = torch.Generator().manual_seed(self.seed)
        shape = (len(self.sources), STATES, len(symbols))
        logits = 2 * torch.randn(shape, generator=random)
        if self.half:  # words of a row must not round to equals, nor rows have equal sums
            logits = logits.argsort(-1) / 8
            logits[..., symbols.eos()] += 1 / 16
            logits[..., symbols.unk()] += 1 / 32
            factors = torch.Generator().manual_seed(self.seed + 1)
            logits *= 1 + torch.rand((*shape[:2], 1), generator=factors)
        logits[..., symbols.eos()] += self.eos
        logits[torch.rand(shape, generator=random) < self.holes] = -math.inf
        logits[..., 0][torch.rand(shape[:2], generator=random) < self.nans] = math.nan
        return Table(logits.half() if self.half else logits)

    def prefix_tokens(self) -> Tensor | None:
        if not self.prefix:
            return None
        symbols = dictionary(self.words)
        special = {-1: symbols.eos(), -2: symbols.pad()}
        longest = max(len(row) for row in self.prefix)
        rows = [
            [special.get(w, symbols.nspecial + w % max(self.words, 1)) for w in row]
            + [symbols.pad()] * (longest - len(row))
            for row in self.prefix
        ]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), longest)

    def stock(self) -> Hypotheses:
        """Stock's hypotheses; where prefixes are ragged, of each sentence with its own alone.

        In a batch, stock sets no limits to a sentence before the prefixes of all others are over.
        """
        own = tuple(row[: max((i + 1 for i, w in enumerate(row) if w != -2), default=0)]
                    for row in self.prefix)  # fmt: skip
        if len({len(row) for row in own}) < 2:
            return replace(self, prefix=own).stock_batch(self.table())
        logits, hypotheses = self.table().logits, []
        for sentence, row in enumerate(own):  # a batch of copies, for the lengths of the sources
            copies = Table(logits[sentence].expand_as(logits))
            batch = replace(self, prefix=(row,) * len(own)).stock_batch(copies)
            hypotheses.append(batch[sentence])
        return hypotheses

    def stock_batch(self, table: Table) -> Hypotheses:
        symbols = dictionary(self.words)
        generator = SequenceGenerator(
            [Model(symbols, table)], symbols, beam_size=self.beam, **dict(self.options)
        )
        tokens = torch.full((len(self.sources), max(self.sources)), symbols.pad())
        for row, length in zip(tokens, self.sources, strict=True):
            row[:length] = symbols.nspecial
        net_input = {"src_tokens": tokens, "src_lengths": torch.tensor(self.sources)}
        return generator.generate(
            None, {"net_input": net_input}, prefix_tokens=self.prefix_tokens(), bos_token=START
        )

    def ours(self) -> tuple[Hypotheses, TableScorer]:
        symbols, options = dictionary(self.words), dict(self.options)
        beam = min(self.beam, len(symbols) - 1)
        lengths = torch.tensor(self.sources)
        suppressed = [symbols.index(word) for word in options.get("tokens_to_suppress", ())]
        matched = options.get("match_source_len", False)
        scorer = TableScorer(self.table(), beam, options.get("temperature", 1.0), self.at_once)
        hypotheses = beam_search(
            scorer,
            Settings(
                beam=beam,
                pad=symbols.pad(),
                unk=symbols.unk(),
                eos=symbols.eos(),
                max_len=max(self.sources) if matched else options["max_len_b"],
                min_len=options.get("min_len", 1),
                length_penalty=(
                    options.get("len_penalty", 1.0) if options.get("normalize_scores", True) else 0
                ),
                unk_penalty=options.get("unk_penalty", 0.0),
                suppressed=torch.tensor(suppressed) if suppressed else None,
            ),
            torch.full_like(lengths, START),
            self.prefix_tokens(),
            lengths if matched else None,
        )
        return [[h._asdict() for h in sentence] for sentence in hypotheses], scorer

    def check(self) -> None:
        """Asserts equal hypotheses, or that both refuse."""
        try:
            stock = self.stock()
        except AssertionError:
            with pytest.raises(ValueError, match="expected"):
                self.ours()
            return
        ours, _ = self.ours()
        # Stock subtracts the penalty of the unknown word after the normalization, we before: up to
        # 11 words of size 16, each rounded twice by 5e-7, whose sum may be small.
        assert_same(stock, ours, tolerance=1e-5)
        for expected, got in zip(stock, ours, strict=True):
            for one, other in zip(expected, got, strict=True):
                for name, value in other.items():
                    assert one[name].dtype == value.dtype and one[name].shape == value.shape


@st.composite
def cases(draw: st.DrawFn) -> Case:
    words = draw(st.integers(1, 20))
    sources = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    max_len = draw(st.integers(1, 10))
    matched = draw(st.sampled_from([False, False, True]))
    # From the second word on: stock cannot finish a sentence of which one beam of several ends.
    word = st.sampled_from([*range(8), *range(8), -1, -2])
    rows = st.lists(word, max_size=4).map(lambda row: (0, *row) if row else ())
    prefix = draw(st.lists(rows, min_size=len(sources), max_size=len(sources)))
    options: dict[str, Any] = {
        "max_len_b": max_len,
        "min_len": draw(st.integers(0, max(sources) if matched else max_len)),
        "len_penalty": draw(st.sampled_from([0.0, 1.0, 2.5])),
        "normalize_scores": draw(st.booleans()),
        "unk_penalty": draw(st.sampled_from([0.0, -3.0, 3.0])),
        "temperature": draw(st.sampled_from([0.6, 1.0, 1.7])),
        "match_source_len": matched,
        "tokens_to_suppress": draw(st.sampled_from([(), ("w0",)])),
    }
    return Case(
        words=words,
        seed=draw(st.integers(0, 10_000)),
        sources=tuple(sources),
        beam=draw(st.integers(1, 9) | st.integers(1, words + 6)),
        options=tuple(options.items()),
        prefix=tuple(prefix) if draw(st.booleans()) else (),
        eos=draw(st.sampled_from([-2.0, 1.0, 3.0])),
        holes=draw(st.sampled_from([0.0, 0.0, 0.3, 0.8])),
        nans=draw(st.sampled_from([0.0, 0.0, 0.1])),
        at_once=draw(st.booleans()),
        half=draw(st.sampled_from([False, False, True])),
    )


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(cases())
def test_random_searches(case: Case) -> None:
    case.check()


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, database=None)
@given(cases())
def test_many_random_searches(case: Case) -> None:
    case.check()


OPTIONS = (("max_len_b", 9),)
NAMED = {
    "beam 1": Case(beam=1, options=OPTIONS, seed=3, sources=(3, 5, 2)),
    "all beams but one may end": Case(words=2, beam=5, options=OPTIONS, eos=2.0),
    "more beams than words": Case(words=5, beam=40, options=OPTIONS),
    "one length": Case(options=(("max_len_b", 6), ("min_len", 6))),
    "one word": Case(options=(("max_len_b", 1), ("min_len", 0)), beam=4),
    "ends at once": Case(options=(*OPTIONS, ("min_len", 0)), eos=50.0, beam=4),
    "ends at many steps": Case(sources=(2,) * 9, options=(*OPTIONS, ("min_len", 0))),
    "ragged prefix": Case(
        sources=(1, 1, 1, 1), options=OPTIONS, prefix=((1, 2, 3), (4,), (), (5, 6, -1))
    ),
    "ragged prefix and limits": Case(
        sources=(1, 1, 1),
        options=(*OPTIONS, ("min_len", 5), ("tokens_to_suppress", ("w0", "w3"))),
        prefix=((0, 1, 2, 3, 4, 5, 6), (3,), (4, 0)),
        eos=3.0,
        beam=4,
    ),
    "prefix as long as can be": Case(options=(("max_len_b", 3),), prefix=((1, 2, 3, 4), (5, 6, 7))),
    "hole in a prefix": Case(options=OPTIONS, prefix=((1, -2, 3), (4, 5, 6))),
    "no word of a row can be chosen": Case(
        options=OPTIONS, nans=0.2, seed=3, sources=(1,) * 6, beam=5
    ),
    "many words impossible": Case(options=OPTIONS, holes=0.6, sources=(1,) * 6, beam=5),
    "source length": Case(
        options=(*OPTIONS, ("match_source_len", True), ("min_len", 0)), sources=(1, 6, 3)
    ),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("name", NAMED)
def test_named_searches(name, half, at_once) -> None:
    case = replace(NAMED[name], half=half, at_once=at_once)
    assert case.stock(), "stock must not refuse"
    case.check()


def test_sentences_leave_the_batch_when_they_are_done() -> None:
    _, scorer = NAMED["ends at many steps"].ours()
    rows = [rows for rows, _ in scorer.calls]
    assert rows == sorted(rows, reverse=True) and len(set(rows)) > 3


def test_a_common_prefix_is_scored_at_once() -> None:
    case = Case(options=OPTIONS, prefix=((1, 2, 3, 4), (5, 6, 7)), sources=(1, 1))
    _, scorer = case.ours()
    assert [length for _, length in scorer.calls[:2]] == [4, 5]
    _, word_by_word = replace(case, at_once=False).ours()
    assert [length for _, length in word_by_word.calls[:2]] == [1, 2]


def test_a_prefix_of_nothing_but_an_end() -> None:
    """Stock fairseq fails there, unless the beam is 1: it loses the other beams."""
    single = Case(beam=1, options=OPTIONS, prefix=((-1,), (-1,)))
    single.check()
    (expected, _), ((one, other), _) = single.stock(), replace(single, beam=2).ours()[0]
    assert one["tokens"].tolist() == other["tokens"].tolist() == [2]
    torch.testing.assert_close(one["score"], expected[0]["score"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(options=(("max_len_b", 2), ("min_len", 3))), "expected at most max_len, 2, got 3"),
        (Case(options=OPTIONS, nans=1.0), "sentence 0: expected a finite score"),
        (Case(options=OPTIONS, prefix=((1, -2, -1), (2, 3, 4))), "expected only tokens before"),
    ],
)
def test_what_stock_refuses_is_refused_with_a_reason(case, message) -> None:
    with pytest.raises(AssertionError):
        case.stock()
    with pytest.raises(ValueError, match=message):
        case.ours()
