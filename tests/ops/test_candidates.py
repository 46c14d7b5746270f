"""log_sum_exp and top_candidates against log-softmax and top-k in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from el_attention.ops import compiled, extension, log_sum_exp, reference, top_candidates
from oracle import DTYPES, exact_candidates, random_logits

needs_compiled = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)
# Rows, vocabulary, beam, k. Words, ranges of a row and ranges of a sentence are exceeded by a few.
SIZES = [
    (1, 1, 1, 1),
    (6, 3, 3, 9),
    (6, 3, 2, 5),
    (4, 37, 4, 8),
    (6, 131, 1, 131),
    (4, 4099, 2, 64),
    (4, 5003, 4, 512),
    (3, 16411, 1, 10),
    (64, 5003, 4, 8),
]


def sums(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The operator's lse, and scores of beams whose values lie close together."""
    lse = log_sum_exp(logits)
    random = torch.Generator().manual_seed(1)
    return lse, torch.randn(logits.size(0), generator=random).round(decimals=1).to(lse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "vocabulary", "beam", "k"), SIZES)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_candidates_are_the_top_of_log_softmax(rows, vocabulary, beam, k, dtype, ties) -> None:
    logits = random_logits(rows, vocabulary, dtype, ties)
    lse, scores = sums(logits)
    eps = torch.finfo(lse.dtype).eps
    right = logits.double().logsumexp(-1)
    torch.testing.assert_close(lse.double(), right, rtol=4 * eps, atol=4 * eps)
    expected, candidates = exact_candidates(logits, scores, beam, k)
    values, index = top_candidates(logits, lse, scores, beam, k)
    tolerance = 8 * eps * float(candidates.abs().max())
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(candidates.gather(1, index), values.double(), rtol=0, atol=tolerance)
    assert all(len(set(row.tolist())) == k for row in index)


@needs_compiled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "vocabulary", "beam", "k"), SIZES)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_compiled_candidates_have_the_bits_of_the_reference(
    rows, vocabulary, beam, k, dtype, ties
) -> None:
    logits = random_logits(rows, vocabulary, dtype, ties)
    lse, scores = sums(logits)
    logits[torch.rand(logits.shape) < 0.1] = -math.inf  # banned words
    ours = torch.ops.el_attention.top_candidates(logits, lse, scores, beam, k)
    theirs = reference.top_candidates(logits, lse, scores, beam, k)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def either(test: Callable[..., None]) -> Any:
    """Runs a test with the compiled operators and with the reference."""
    return pytest.mark.parametrize(
        "top", [pytest.param(top_candidates, marks=needs_compiled), reference.top_candidates]
    )(test)


@either
@pytest.mark.parametrize("vocabulary", [5, 77, 9001])
def test_equal_candidates_come_in_the_order_of_their_indices(top, vocabulary) -> None:
    logits = torch.zeros(4, vocabulary)
    values, index = top(logits, torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0]), 2, 5)
    assert values.tolist() == [[0.0] * 5, [1.0] * 5]
    assert index.tolist() == [list(range(5)), list(range(vocabulary, vocabulary + 5))]
    logits[:, 1:] = -0.0  # is equal to zero
    again, index = top(logits, torch.zeros(4), torch.zeros(4), 2, 5)
    assert again.eq(0).all() and index.tolist() == [list(range(5))] * 2


@either
def test_an_ascending_row_replaces_every_candidate(top) -> None:
    """Each word is better than all before it: the worst case of a threshold."""
    logits = torch.arange(20000.0).repeat(2, 1)
    values, index = top(logits, torch.zeros(2), torch.tensor([0.0, 0.5]), 2, 6)
    assert values[0].tolist() == [19999.5, 19999.0, 19998.5, 19998.0, 19997.5, 19997.0]
    assert index[0].tolist() == [39999, 19999, 39998, 19998, 39997, 19997]


@either
def test_nan_and_banned_words_are_never_better_than_others(top) -> None:
    logits = torch.full((3, 50), -math.inf)
    logits[0, :7] = math.nan
    logits[0, 9], logits[1, 7], logits[2, 2] = 1.0, 2.0, math.inf
    lse = torch.tensor([0.0, 0.0, math.inf])
    values, index = top(logits, lse, torch.tensor([0.0, -5.0, 0.0]), 3, 4)
    assert values.tolist() == [[1.0, -3.0, -math.inf, -math.inf]]
    assert index.tolist() == [[9, 57, 0, 1]]


@either
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_beam_without_a_score_has_no_candidates(top, bad) -> None:
    logits = torch.randn(2, 40)
    for lse, scores in [([0.0, 0.0], [bad, 0.0]), ([math.nan, 0.0], [0.0, 0.0])]:
        values, index = top(logits, torch.tensor(lse), torch.tensor(scores), 2, 40)
        assert values.isfinite().all() and index.ge(40).all()
        values, index = top(logits, torch.tensor(lse), torch.tensor(scores), 2, 42)
        assert values[0, 40:].eq(-math.inf).all() and index[0, 40:].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [3, 130, 5000])
@pytest.mark.parametrize(
    "sums_of", [pytest.param(log_sum_exp, marks=needs_compiled), reference.log_sum_exp]
)
def test_log_sum_exp_of_rows_with_infinity_or_nan(sums_of, vocabulary, dtype) -> None:
    logits = random_logits(6, vocabulary, dtype)
    logits[0] = -math.inf
    logits[1, -1] = math.nan
    logits[2, 0] = math.inf
    logits[3, 1:] = -math.inf
    logits[4, 0], logits[4, -1] = math.inf, math.nan
    lse = sums_of(logits)
    assert lse.dtype == reference.softmax_dtype(dtype)
    assert lse[0] == -math.inf and lse[1].isnan() and lse[2] == math.inf and lse[4].isnan()
    assert lse[3] == logits[3, 0].to(lse.dtype)
    torch.testing.assert_close(lse[5].double(), logits[5].double().logsumexp(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [300.0, -300.0, 6e4, -6e4])
def test_log_sum_exp_neither_overflows_nor_vanishes(scale) -> None:
    logits = torch.full((2, 9000), scale) + torch.randn(2, 9000)
    torch.testing.assert_close(
        log_sum_exp(logits).double(), logits.double().logsumexp(-1), rtol=1e-6, atol=0
    )


def test_an_empty_batch_and_an_empty_vocabulary() -> None:
    empty = torch.empty(0, 9)
    values, index = top_candidates(empty, log_sum_exp(empty), torch.empty(0), 3, 2)
    assert values.shape == index.shape == (0, 2) and index.dtype == torch.int64
    assert log_sum_exp(torch.empty(3, 0)).tolist() == [-math.inf] * 3


def test_more_candidates_than_the_compiled_operator_returns_come_from_the_reference() -> None:
    logits = random_logits(2, 700, torch.float32)
    lse, scores = sums(logits)
    k = compiled.MAX_CANDIDATES + 1
    values, index = top_candidates(logits, lse, scores, 2, k)
    expected, _ = exact_candidates(logits, scores, 2, k)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    assert index.shape == (1, k)


@needs_compiled
@pytest.mark.parametrize(("rows", "vocabulary", "beam", "k"), SIZES)
def test_threads_change_no_bit(rows, vocabulary, beam, k) -> None:
    logits = random_logits(rows, vocabulary, torch.float32)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            lse, scores = sums(logits)
            results.append((lse, *top_candidates(logits, lse, scores, beam, k)))
    finally:
        torch.set_num_threads(1)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_schemas_and_fakes_tell_the_truth(dtype) -> None:
    logits = random_logits(6, 70, dtype)
    lse, scores = sums(logits)
    torch.library.opcheck(torch.ops.el_attention.log_sum_exp.default, (logits,))
    torch.library.opcheck(
        torch.ops.el_attention.top_candidates.default, (logits, lse, scores, 3, 4)
    )


@needs_compiled
def test_misfitting_arguments_are_named() -> None:
    logits, lse, scores = torch.randn(6, 40), torch.zeros(6), torch.zeros(6)
    operator = torch.ops.el_attention.top_candidates
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((logits.int(), lse, scores, 2, 4), "logits: expected dtype Double, Float, Half or"),
        ((logits[0], lse, scores, 2, 4), r"logits: expected \[rows, vocabulary\], got \[40\]"),
        ((logits.t()[:6], lse, scores, 2, 4), r"logits: expected a contiguous last dimension"),
        ((logits, lse.double(), scores, 2, 4), "lse: expected dtype Float, got Double"),
        ((logits, lse[:5], scores, 2, 4), r"lse: expected \[6\], got \[5\]"),
        ((logits, lse, scores.half(), 2, 4), "scores: expected dtype Float, got Half"),
        ((logits, lse, scores[None], 2, 4), r"scores: expected \[6\], got \[1, 6\]"),
        ((logits, lse, scores, 4, 4), "beam: expected a divisor of 6, the rows of logits, got 4"),
        ((logits, lse, scores, 0, 4), "beam: expected a divisor of 6"),
        ((logits, lse, scores, 2, 0), "k: expected 1 to 80, got 0"),
        ((logits, lse, scores, 2, 81), "k: expected 1 to 80, got 81"),
        ((torch.randn(6, 900), lse, scores, 2, 513), "k: expected 1 to 512, got 513"),
    ]
    for arguments, message in wrong:
        with pytest.raises(RuntimeError, match=message):
            operator(*arguments)
    huge = torch.empty(1, 2**30, dtype=torch.float16).expand(2, -1)  # memory that nobody touches
    with pytest.raises(RuntimeError, match=r"fewer than 2\^31 candidates of a sentence, got 2147"):
        operator(huge, lse[:2], scores[:2], 2, 4)
    with pytest.raises(RuntimeError, match="log_sum_exp: expected inputs that need no gradient"):
        torch.ops.el_attention.log_sum_exp(logits.requires_grad_())


def test_the_reference_names_misfitting_arguments() -> None:
    logits, zeros = torch.randn(6, 40), torch.zeros(6)
    with pytest.raises(ValueError, match="beam: expected a divisor of 6 rows, got 4"):
        reference.top_candidates(logits, zeros, zeros, 4, 2)
    with pytest.raises(ValueError, match="k: expected 1 to 80, got 81"):
        reference.top_candidates(logits, zeros, zeros, 2, 81)


def test_gradients_take_the_reference() -> None:
    logits = torch.randn(2, 9, requires_grad=True)
    log_sum_exp(logits).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1))
