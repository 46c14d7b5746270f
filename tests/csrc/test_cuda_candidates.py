"""The CUDA kernels of a search, run by the emulator, against float64 and the reference's bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from el_attention.ops import reference
from emulated import Emulation
from emulator_build import require
from oracle import DTYPES, random_logits

SCHEDULES = ["ascending", "descending", "round-robin", "random:1", "random:2"]
Call = tuple[Tensor, Tensor, Tensor, int, int]  # arguments of top_candidates
A100 = Emulation("a100")
T4 = Emulation("t4")
# Rows, vocabulary, beam, k. A block sums 4,096 logits and lists the best of 2,048 or more.
SIZES = [
    (1, 1, 1, 1),
    (6, 3, 3, 9),
    (4, 37, 4, 8),
    (2, 257, 2, 257),
    (4, 2049, 2, 17),
    (3, 5003, 1, 512),
    (2, 9001, 2, 8),
]


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    require()


def arguments(size: tuple[int, int, int, int], dtype: torch.dtype, ties: bool = False) -> Call:
    """Arguments of top_candidates, some words banned."""
    rows, vocabulary, beam, k = size
    logits = random_logits(rows, vocabulary, dtype, ties)
    random = torch.Generator().manual_seed(vocabulary)
    lse = reference.log_sum_exp(logits)
    scores = torch.randn(rows, generator=random).round(decimals=1).to(lse)
    logits[torch.rand(logits.shape, generator=random) < 0.1] = -math.inf
    return logits, lse, scores, beam, k


def assert_top(emulation: Emulation, call: Call) -> None:
    found = emulation.top_candidates(*call)
    values, index = reference.top_candidates(*call)
    assert torch.equal(found["values"], values)
    assert torch.equal(found["index"], index)


def assert_sum(found: Tensor, logits: Tensor) -> None:
    """To 4 units in the last place of an accumulator."""
    exact = logits.double().logsumexp(-1)
    accuracy = 4 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.double(), exact, rtol=accuracy, atol=accuracy, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_equal_float64(size, dtype) -> None:
    logits = random_logits(size[0], size[1], dtype)
    assert_sum(A100.log_sum_exp(logits), logits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_candidates_have_the_bits_of_the_reference(size, dtype, ties) -> None:
    assert_top(A100, arguments(size, dtype, ties))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sm_75_equals_float64(dtype) -> None:
    call = arguments((4, 2049, 2, 17), dtype)
    assert_top(T4, call)
    logits = random_logits(2, 4099, dtype)
    assert_sum(T4.log_sum_exp(logits), logits)


@pytest.mark.parametrize("vocabulary", [40, 5003])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_of_rows_with_infinity_or_nan(vocabulary, dtype) -> None:
    logits = random_logits(7, vocabulary, dtype)
    logits[0] = -math.inf
    logits[1, -1] = math.nan
    logits[2, 0] = math.inf
    logits[3, 1:] = -math.inf
    logits[4, 0], logits[4, -1] = math.inf, math.nan
    logits[5] += 6e4 if dtype == torch.float16 else 1e6
    assert_sum(A100.log_sum_exp(logits), logits)


def test_nan_and_banned_words_are_never_better_than_others() -> None:
    logits = torch.full((3, 2500), -math.inf)
    logits[0, :7] = math.nan
    logits[0, 9], logits[1, 2400], logits[2, 2] = 1.0, 2.0, math.inf
    lse = torch.tensor([0.0, 0.0, math.inf])
    call = (logits, lse, torch.tensor([0.0, -5.0, 0.0]), 3, 4)
    assert_top(A100, call)
    assert A100.top_candidates(*call)["index"].tolist() == [[9, 4900, 0, 1]]


@pytest.mark.parametrize("k", [1, 8, 512])
@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_words_in_order_are_the_worst_and_the_best_case(order, k) -> None:
    words = torch.arange(3001.0)
    row = {"ascending": words, "descending": -words, "equal": torch.ones(3001)}[order]
    assert_top(A100, (row.repeat(2, 1), torch.zeros(2), torch.tensor([0.0, 0.5]), 2, k))


def test_a_list_for_each_sentence_needs_no_second_launch() -> None:
    call = arguments((3, 2000, 1, 8), torch.float16)
    result = A100.top_candidates(*call)
    assert "scratch" not in result.counters["arrays"]
    assert "scratch" in A100.top_candidates(*arguments(SIZES[-1], torch.float16)).counters["arrays"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_are_read_once(dtype) -> None:
    call = arguments((2, 9001, 2, 8), dtype)
    read = A100.top_candidates(*call).counters["arrays"]["logits"]
    assert read["read_bytes"] == read["unique_read_bytes"] == 2 * 9001 * call[0].element_size()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_schedule_gives_the_same_bits(schedule) -> None:
    emulation = Emulation("a100", schedule)
    for ties in (False, True):
        assert_top(emulation, arguments((4, 2500, 2, 33), torch.float32, ties))
    logits = random_logits(3, 4500, torch.float32)
    assert torch.equal(emulation.log_sum_exp(logits), A100.log_sum_exp(logits))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("schedule", ["ascending", "random:3"])
def test_sanitizers_find_nothing(sanitizer, schedule) -> None:
    require(sanitizer)
    emulation = Emulation("a100", schedule, sanitizer)
    for dtype in DTYPES:
        assert_top(emulation, arguments((4, 2500, 2, 33), dtype, ties=True))
        logits = random_logits(2, 4500, dtype)
        assert_sum(emulation.log_sum_exp(logits), logits)


def test_more_rows_or_words_than_a_grid_takes_are_refused() -> None:
    numbers = torch.zeros(1)
    arrays = {"logits": numbers, "lse": numbers, "scores": numbers}
    shared = {"dtype": "float32", "logits_offset": 0, "logits_row": 0, "beam": 1, "k": 1}
    for operator, rows, vocabulary, message in [
        ("log_sum_exp", 1, 2**24 + 1, r"at most 2\^24 tokens, got 16777217"),
        ("log_sum_exp", 2**31, 5000, "at most 1073741823 rows, got 2147483648"),
        ("top_candidates", 2**31, 5000, "at most 2147483647 rows, got 2147483648"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            A100.run(operator, arrays, {}, rows=rows, vocabulary=vocabulary, **shared)
