"""--no-repeat-ngram-size against a brute-force check."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import el_attention
from el_attention.fairseq_plugin.ngrams import NGramBlock
from random_case import Repeats
from tiny import PLANS, assert_same, batch, build, dictionary, generator_of, prompts

SEEDS = {"transformer": 3, "bart": 1, "lm": 0}  # whose hypotheses are long and repetitive


class BruteForce(nn.Module):
    """Tries every continuation of every hypothesis, one by one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(
        self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int
    ) -> Tensor:
        for row in range(bsz * beam_size):
            history = tokens[row, 1 : step + 1].tolist()
            for word in range(lprobs.size(1)):
                if repeats([*history, word], self.size):
                    lprobs[row, word] = -math.inf
        return lprobs


def repeats(sequence: list[int], size: int) -> bool:
    """Whether the last n-gram of a sequence stands in it earlier too."""
    ngrams = [tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)]
    return bool(ngrams) and ngrams[-1] in ngrams[:-1]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("step", [0, 1, 2, 7, 20])
def test_exactly_the_repeating_continuations_are_forbidden(size, step, operators) -> None:
    random = torch.Generator().manual_seed(size * 100 + step)
    tokens = torch.randint(4, 7, (6, 25), generator=random)
    tokens[:, 0] = 2
    lprobs = torch.rand(6, 9, generator=random)
    expected = BruteForce(size)(tokens, lprobs.clone(), 3, 2, step)
    assert torch.equal(NGramBlock(size)(tokens, lprobs.clone(), 3, 2, step), expected)
    if step == 20:
        assert expected.eq(-math.inf).any()


def test_the_last_token_of_a_row_is_not_forbidden() -> None:
    """As where a prefix or the longest length forces it."""
    tokens = torch.tensor([[4, 5, 6, 5, 6]] * 3)
    lprobs = torch.zeros(3, 9)
    lprobs[0] = lprobs[1] = -math.inf
    lprobs[0, 6] = lprobs[1, [3, 6]] = -0.25
    block = NGramBlock(2, eos=2)
    expected = lprobs.clone()
    expected[1:, 6] = -math.inf
    assert torch.equal(block(tokens, lprobs, 3, 1, 3), expected)


def test_a_row_that_has_ended_is_left_alone() -> None:
    tokens = torch.tensor([[2, 5, 2, 6, 6, 1], [2, 5, 4, 6, 6, 1]])
    lprobs = NGramBlock(1, eos=2)(tokens, torch.zeros(2, 9), 1, 2, 4)
    assert lprobs[0].eq(0).all()
    assert lprobs[1].isinf().nonzero().flatten().tolist() == [4, 5, 6]


def options(size: int) -> dict[str, Any]:
    return {"beam": 4, "max_len_b": 30, "no_repeat_ngram_size": size}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "bart"])
@pytest.mark.parametrize("size", [2, 3])
def test_generation_equals_stock_fairseq_with_a_brute_force_block(family, plan, size) -> None:
    symbols = dictionary()
    model, sample = build(family, symbols, seed=SEEDS[family]), batch(symbols, [9, 5, 7, 2])
    stock = generator_of([model], symbols, options(size))
    unblocked = stock.generate(None, sample)  # stock: the option does nothing on a CPU
    stock = generator_of([model], symbols, options(size))
    stock.repeat_ngram_blocker = BruteForce(size)
    expected = stock.generate(None, sample)
    assert any(
        repeats(h["tokens"].tolist()[:end], size)
        for sentence in unblocked for h in sentence for end in range(len(h["tokens"]))
    )  # fmt: skip
    ours = el_attention.convert(generator_of([model], symbols, options(size)), plan)
    assert_same(expected, ours.generate(None, sample))


def test_a_prompt_that_repeats_itself_is_kept_and_counts() -> None:
    symbols = dictionary()
    prefix = prompts(symbols, [4, 4])[:, [0, 1, 0, 1, 0, 1]]
    generator = generator_of([build("lm", symbols)], symbols, options(2))
    hypotheses = el_attention.convert(generator).generate(
        None, batch(symbols, [3, 3]), prefix_tokens=prefix
    )
    for forced, sentence in zip(prefix.tolist(), hypotheses, strict=True):
        for hypothesis in sentence:
            tokens = hypothesis["tokens"].tolist()
            assert tokens[:6] == forced and math.isfinite(hypothesis["score"])
            assert not any(repeats(tokens[:end], 2) for end in range(7, len(tokens) + 1))


@pytest.mark.parametrize(
    ("family", "size", "more"),
    [
        ("transformer", 1, {}),
        ("bart", 1, {"diverse_beam_groups": 2}),
        ("lm", 1, {}),
        ("lm", 2, {"diversity_rate": 0.3, "unkpen": 0.5}),
    ],
)
def test_ngrams_of_a_prefix_do_not_count_where_they_are_left_out(family, size, more) -> None:
    """Stock gets every sentence alone, with a block that knows the length of its prefix."""
    symbols = dictionary()
    model = build(family, symbols, seed=SEEDS[family])
    chosen = {**options(size), "max_len_b": 12, **more}
    sample, lengths = batch(symbols, [5] * 4), (6, 1, 0 if family != "lm" else 2, 3)
    prefix = prompts(symbols, lengths)
    expected = []
    for sentence, length in enumerate(lengths):
        stock = generator_of([model], symbols, chosen)
        stock.repeat_ngram_blocker = Repeats(size, symbols.eos(), stock.search, length)
        tokens = sample["net_input"]["src_tokens"][sentence : sentence + 1]
        alone = {"net_input": {"src_tokens": tokens, "src_lengths": torch.tensor([5])}}
        own = prefix[sentence : sentence + 1, :length] if length else None
        expected += stock.generate(None, alone, prefix_tokens=own)
    ours: Any = el_attention.convert(generator_of([model], symbols, chosen))
    counted = ours.generate(None, sample, prefix_tokens=prefix)
    ours.el_ngrams_after_prefix = True
    got = ours.generate(None, sample, prefix_tokens=prefix)
    assert_same(expected, got)
    assert [h["tokens"].tolist() for s in counted for h in s] != [
        h["tokens"].tolist() for s in got for h in s
    ]
