"""The host side of the CUDA operators, with plain loops in place of the kernels: no GPU needed."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from el_attention.ops import reference
from emulator_build import require
from oracle import (
    DTYPES,
    Call,
    Size,
    assert_exact,
    expanded,
    projected,
    random_call,
    random_logits,
)

HERE = Path(__file__).parent
SIZES = [
    expanded(2, 3, 4, 8, 5, 1, 7),
    projected(3, 2, 3, 5, 4, 9),
    Size(2, 3, 4, 4, 6, 10, (5, 2)),
    Size(2, 3, 4, 1, 6, 10, (5, 2)),
]


@pytest.fixture(scope="module")
def _library() -> torch.library.Library:
    """The library el_attention_host, compiled once into build/."""
    require()
    pytest.importorskip("el_attention._C", reason="the schemas are those of the extension")
    folder = HERE.parents[1] / "build" / "cuda_host"
    folder.mkdir(parents=True, exist_ok=True)
    library = torch.library.Library("el_attention_host", "DEF")
    for name in ("attend", "weights", "block_ngrams_", "log_sum_exp", "top_candidates"):
        schema = str(getattr(torch.ops.el_attention, name).default._schema)
        library.define(schema.removeprefix("el_attention::"))
    with pytest.MonkeyPatch.context() as patch:
        # The ninja of an environment that is not activated.
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        cpp_extension.load(
            "el_attention_host",
            str(HERE / "cuda_host" / "operators.cpp"),
            extra_include_paths=[str(HERE / "cuda_host")],
            extra_cflags=["-O1", "-g0"],
            build_directory=str(folder),
            is_python_module=False,
        )
    return library


@pytest.fixture(autouse=True)
def _operators(monkeypatch: pytest.MonkeyPatch, _library: torch.library.Library) -> None:
    monkeypatch.setattr(torch.ops, "el_attention", torch.ops.el_attention_host)


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("seen", ["all", "by all beams", "by each beam"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernels_are_given_the_call(size, dtype, seen, biased) -> None:
    assert_exact(random_call(size, dtype, "cpu", seen, biased=biased))


def spread(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, every second element of a larger tensor in each dimension."""
    larger = x.new_zeros([2 * size for size in x.shape])
    view = larger[tuple(slice(None, None, 2) for _ in x.shape)]
    return view.copy_(x)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tensors_may_have_strides(size) -> None:
    call = random_call(size, torch.float32, "cpu")
    assert call.visible is not None

    def turned(segments: list[torch.Tensor]) -> list[torch.Tensor]:
        return [x.transpose(0, 2).contiguous().transpose(0, 2) for x in segments]

    strided = Call(
        spread(call.query),
        turned(call.keys),
        turned(call.values),
        [spread(column) for column in call.columns],
        spread(call.visible),
    )
    assert not strided.query.is_contiguous() and not strided.columns[0].is_contiguous()
    assert_exact(strided)
    by_head = call.query.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    assert_exact(dataclasses.replace(call, query=by_head))
    lse = call.attend()[1]
    assert torch.equal(call.weights(spread(lse)), call.weights(lse))
    transposed = call.visible.transpose(0, 1).contiguous().transpose(0, 1)
    assert_exact(dataclasses.replace(call, visible=transposed))


@pytest.mark.parametrize("lengths", [(0,), (0, 0), (0, 3, 0)])
@pytest.mark.parametrize("groups", [0, 2])
def test_empty_input(groups, lengths) -> None:
    call = random_call(expanded(groups, 2, 3, 4, *lengths), torch.float16, "cpu", "all")
    context, lse = call.attend()
    assert context.shape == (groups, 2, 3, 4) and lse.shape == (groups, 2, 3)
    assert call.weights(lse).shape == (groups, 2, 3, sum(lengths))
    if sum(lengths) == 0:
        assert context.eq(0).all() and lse.eq(-torch.inf).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("strided", [False, True])
def test_ngrams(dtype, size, strided) -> None:
    random = torch.Generator().manual_seed(size)
    tokens = torch.randint(4, 7, (6, 25), generator=random)
    lprobs = torch.rand(6, 9, generator=random).to(dtype)
    forced = torch.rand(6, generator=random) < 0.3
    for length in (1, 2, 21):
        expected, found = lprobs.clone(), spread(lprobs) if strided else lprobs.clone()
        reference.block_ngrams_(expected, tokens, size, length, forced)
        arguments = [spread(tokens), spread(forced)] if strided else [tokens, forced]
        torch.ops.el_attention.block_ngrams_(found, arguments[0], size, length, arguments[1])
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_candidates(dtype, ties) -> None:
    logits = random_logits(6, 29, dtype, ties)
    lse = torch.ops.el_attention.log_sum_exp(logits)
    assert lse.dtype == reference.softmax_dtype(dtype)
    torch.testing.assert_close(lse, reference.log_sum_exp(logits), rtol=1e-6, atol=1e-6)
    scores = torch.randn(6).to(lse)
    expected = reference.top_candidates(logits, lse, scores, 3, 5)
    for arguments in ((lse, scores), (spread(lse), spread(scores))):
        found = torch.ops.el_attention.top_candidates(logits, *arguments, 3, 5)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_candidates_of_nothing() -> None:
    assert torch.ops.el_attention.log_sum_exp(torch.empty(0, 7)).shape == (0,)
    assert torch.ops.el_attention.log_sum_exp(torch.empty(2, 0)).eq(-torch.inf).all()
    none = torch.empty(0)
    values, index = torch.ops.el_attention.top_candidates(torch.empty(0, 7), none, none, 3, 5)
    assert values.shape == index.shape == (0, 5) and index.dtype == torch.int64


def test_wrong_arguments_are_refused_before_a_launch() -> None:
    call = random_call(expanded(2, 3, 4, 8, 5), torch.float32)
    with pytest.raises(RuntimeError, match=r"columns\[0\]: expected dtype Long, got Int"):
        dataclasses.replace(call, columns=[call.columns[0].int()]).attend()


@pytest.mark.parametrize("column", [-1, 5])
def test_the_next_call_raises_what_a_kernel_has_reported(column) -> None:
    call = random_call(expanded(2, 3, 4, 8, 5), torch.float32)
    wrong = dataclasses.replace(call, columns=[torch.tensor([0, column])])
    lse = call.attend()[1]
    logits = torch.zeros(2, 9)
    for name, run in {
        "attend: columns": wrong.attend,
        "weights: columns": lambda: wrong.weights(lse),
        "block_ngrams_: tokens": lambda: torch.ops.el_attention.block_ngrams_(
            logits, torch.tensor([[0, 4, column + 9, 4], [0, 4, -1, 4]]), 2, 4, None
        ),
    }.items():
        for following in (call.attend, lambda: torch.ops.el_attention.log_sum_exp(logits)):
            run()  # does not wait for the device: no error yet
            with pytest.raises(RuntimeError, match=rf"{name}: expected \[0, .*, got -?[15]"):
                following()
            following()  # once


def test_wrong_values_keep_their_sign() -> None:
    call = random_call(expanded(2, 3, 4, 8, 5), torch.float32)
    dataclasses.replace(call, columns=[torch.tensor([-(2**40), 0])]).attend()
    with pytest.raises(RuntimeError, match=r"got -1099511627776\. It was in an earlier call"):
        call.attend()
