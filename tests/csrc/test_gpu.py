"""Acceptance on a GPU, `pytest -m gpu`: the CUDA operators against float64, and a whole decode.

Needs torch and pytest, and no framework.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
import torch

from el_attention.ops import check, extension, reference
from half_decode import HALVES, STEPS, AttendCalls, assert_as_good_as_pytorch, decoded
from oracle import DTYPES, Size, assert_exact, expanded, projected, random_call, random_logits

DEVICE = "cuda"


def unsupported() -> str | None:
    """Why the CUDA operators cannot run here, or None."""
    if not torch.cuda.is_available():
        return f"no GPU that torch {torch.__version__} can use"
    if extension.unsupported is not None:
        return f"el_attention._C is {extension.unsupported}"
    if importlib.import_module("el_attention._C").build_information()["cuda"] is None:
        return "el_attention._C is built without CUDA"
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(unsupported() is not None, reason=str(unsupported())),
]

SIZES = [
    # Every width that has an instance of its own, one in between, and queries from 1 to 512.
    expanded(1, 1, 1, 64, 1),
    expanded(3, 5, 2, 128, 33),
    expanded(5, 4, 8, 256, 100),
    expanded(8, 4, 8, 512, 1024),
    expanded(2, 33, 3, 640, 16, 17),
    expanded(4, 5, 12, 768, 129, 16, 1),
    expanded(2, 4, 16, 1024, 1000, 30, 5),
    expanded(1, 32, 16, 1024, 300),
    expanded(2, 1, 20, 1280, 64, 64),
    expanded(2, 2, 25, 1600, 65),
    # Widths for which there are no tensor cores.
    expanded(2, 3, 4, 100, 37, 5),
    expanded(2, 3, 2, 2000, 9),
    projected(8, 4, 16, 64, 1024),
    projected(3, 5, 7, 80, 65, 3),
    projected(2, 64, 3, 13, 19),
    Size(2, 3, 4, 4, 24, 40, (50, 2)),
    Size(2, 3, 4, 1, 24, 40, (50, 2)),
]


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("seen", ["all", "by all beams", "by each beam"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attend_and_weights_equal_float64(size, dtype, seen, biased) -> None:
    assert_exact(random_call(size, dtype, DEVICE, seen, biased=biased))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_input_gives_the_same_bits_on_any_stream(size) -> None:
    call = random_call(size, torch.float16, DEVICE)
    first = call.attend()
    with torch.cuda.stream(torch.cuda.Stream()):
        query = call.query.clone()  # still pending on this stream when the operator is called
        second = torch.ops.el_attention.attend(
            query, call.keys, call.values, call.columns, call.visible, call.bias
        )
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("size", [expanded(0, 2, 3, 64, 5), expanded(2, 2, 3, 64, 0)], ids=str)
def test_empty_input_gives_empty_or_zero_output(size) -> None:
    call = random_call(size, torch.float16, DEVICE, "all")
    context, lse = call.attend()
    assert context.shape == call.query.shape and context.eq(0).all()
    assert lse.shape == call.query.shape[:3] and lse.eq(-torch.inf).all()
    assert call.weights(lse).shape == (*call.query.shape[:3], sum(size.lengths))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_block_ngrams_equals_the_reference(size, dtype) -> None:
    random = torch.Generator().manual_seed(size)
    tokens = torch.randint(4, 7, (600, 90), generator=random)
    lprobs = torch.rand(600, 4000, generator=random).to(dtype)
    forced = torch.rand(600, generator=random) < 0.2
    for length in (1, 2, 31, 81):
        expected, found = lprobs.clone(), lprobs.to(DEVICE)
        reference.block_ngrams_(expected, tokens, size, length, forced)
        torch.ops.el_attention.block_ngrams_(
            found, tokens.to(DEVICE), size, length, forced.to(DEVICE)
        )
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "vocabulary", "beam", "k"),
    [(1, 5, 1, 5), (4, 50265, 4, 8), (512, 50265, 4, 8), (64, 3001, 64, 128), (6, 9000, 3, 512)],
)
def test_candidates_have_the_bits_of_the_reference(rows, vocabulary, beam, k, dtype) -> None:
    for ties in (False, True):
        logits = random_logits(rows, vocabulary, dtype, ties)
        moved = logits.to(DEVICE)
        lse = torch.ops.el_attention.log_sum_exp(moved)
        accuracy = 1e-12 if dtype == torch.float64 else 2e-6
        exact = logits.double().logsumexp(-1)
        torch.testing.assert_close(lse.cpu().double(), exact, rtol=accuracy, atol=accuracy)
        scores = torch.randn(rows).to(lse)
        expected = reference.top_candidates(logits, lse.cpu(), scores.cpu(), beam, k)
        found = torch.ops.el_attention.top_candidates(moved, lse, scores, beam, k)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


def arguments() -> dict[str, tuple[Any, ...]]:
    """A call of every operator."""
    call = random_call(expanded(2, 3, 4, 64, 20, 3), torch.float16, DEVICE, biased=True)
    shared = (call.columns, call.visible, call.bias)
    tokens = torch.randint(4, 7, (6, 20), device=DEVICE)
    logits = torch.rand(6, 90, device=DEVICE)
    return {
        "log_sum_exp": (logits,),
        "top_candidates": (logits, logits[:, 0], logits[:, 1], 3, 4),
        "attend": (call.query, call.keys, call.values, *shared),
        "weights": (call.query, call.keys, *shared, call.attend()[1]),
        "block_ngrams_": (torch.rand(6, 9, device=DEVICE), tokens, 2, 20, None),
    }


@pytest.mark.parametrize(
    "name", ["attend", "weights", "block_ngrams_", "log_sum_exp", "top_candidates"]
)
def test_operators_pass_opcheck(name) -> None:
    torch.library.opcheck(getattr(torch.ops.el_attention, name).default, arguments()[name])


def test_operators_refuse_tensors_of_another_device() -> None:
    call = random_call(expanded(2, 3, 4, 64, 20), torch.float16, DEVICE)
    with pytest.raises(RuntimeError, match="expected device cuda:0, got cpu"):
        torch.ops.el_attention.attend(
            call.query, call.keys, call.values, [c.cpu() for c in call.columns], call.visible, None
        )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_decode_on_tensor_cores_is_as_good_as_pytorchs(dtype) -> None:
    with AttendCalls() as watched:
        found = decoded(dtype, DEVICE)
    assert watched.calls == [(dtype, 1, True)] * (2 * 2 * STEPS)
    assert_as_good_as_pytorch(found, dtype)


@pytest.mark.parametrize("operator", check.OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_check_at_first_use_passes(operator, dtype) -> None:
    for effort in (check.FIRST, check.MANY):
        assert check.run(operator, torch.device(DEVICE, 0), dtype, effort).fault is None


@pytest.mark.parametrize("column", [-1, 1 << 20])
def test_a_column_out_of_range_is_raised_by_the_next_call_and_the_device_goes_on(column) -> None:
    call = random_call(expanded(3, 4, 8, 64, 100), torch.float16, DEVICE)
    context = call.attend()[0]
    wrong = call.columns[0].clone()
    wrong[1] = column
    found = dataclasses.replace(call, columns=[wrong]).attend()[0]
    assert found[1].isnan().all() and torch.equal(found[[0, 2]], context[[0, 2]])
    with pytest.raises(RuntimeError, match=rf"attend: columns: expected .* got {column}"):
        call.attend()
    assert torch.equal(call.attend()[0], context)
