"""The operator of linear layers against float64 and against torch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from el_attention.ops import compiled, extension, linear

needs_compiled = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)

FEW = 8  # kFewRows in csrc/cpu/kernels/linear.cpp

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NARROW = (torch.float16, torch.bfloat16)

# Rows, inputs, outputs: odd; around the register tiles, their vectors, what is summed at a time,
# and the rows from which on another kernel takes them.
SIZES = [
    (1, 1, 1),
    (2, 7, 5),
    (4, 64, 12),
    (5, 17, 37),
    (8, 770, 20),
    (9, 769, 13),
    (19, 768, 6),
    (33, 1601, 7),
    (64, 61, 33),
    (70, 800, 16),
    (130, 96, 18),
    (259, 35, 3),
    (3, 13, 1100),
]


def case(rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Input, weight and bias."""
    torch.manual_seed(rows + inputs + outputs)
    tensors = (
        torch.randn(rows, inputs, dtype=torch.float64),
        torch.randn(outputs, inputs, dtype=torch.float64) / max(inputs, 1) ** 0.5,
        torch.randn(outputs, dtype=torch.float64),
    )
    return [tensor.to(dtype) for tensor in tensors]


def operator(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.el_attention.linear(x, weight, bias)


def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """In long double, rounded once."""
    wide = [tensor.double().numpy().astype(np.longdouble) for tensor in (x, weight, bias)]
    return torch.from_numpy((wide[0] @ wide[1].T + wide[2]).astype(np.float64))


@needs_compiled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("by_input", (False, True))
def test_is_at_most_twice_as_far_from_float64_as_torch(by_input, sizes, dtype):
    arguments = case(*sizes, dtype)
    expected = exact(*arguments)
    if by_input:
        arguments[1] = arguments[1].t().contiguous().t()
    ours = (operator(*arguments).double() - expected).abs().max()
    torchs = (F.linear(*arguments).double() - expected).abs().max()
    assert ours <= 2 * torchs + 4 * torch.finfo(dtype).eps * expected.abs().max()


@needs_compiled
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("sizes", [*SIZES, (0, 5, 3), (4, 0, 3), (4, 5, 0)], ids=str)
def test_a_weight_in_16_bits_gives_the_bits_of_the_same_in_float32(sizes, dtype):
    x, weight, bias = case(*sizes)
    narrow = weight.to(dtype)
    assert torch.equal(operator(x, narrow, bias), operator(x, narrow.float(), bias))
    by_input = narrow.t().contiguous().t()
    assert torch.equal(operator(x, by_input), operator(x, by_input.float()))


@needs_compiled
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("rows", (FEW, FEW + 1))
def test_a_weight_in_16_bits_may_hold_any_number(rows, dtype):
    info = torch.finfo(dtype)
    extremes = [info.smallest_normal / 4, -info.max, 0.0, -0.0, math.inf, -math.inf, math.nan]
    x, weight, _ = case(rows, 37, 11)
    narrow = weight.to(dtype)
    for output, number in enumerate(extremes):
        narrow[output, [3, 35]] = number  # in whole vectors, and in what is left after them
    found = operator(x, narrow)
    torch.testing.assert_close(
        found, operator(x, narrow.float()), rtol=0.0, atol=0.0, equal_nan=True
    )
    assert found.isfinite().any(0).sum() == len(weight) - 3


@needs_compiled
@pytest.mark.parametrize("bias", (False, True))
def test_takes_a_bias_or_none(bias):
    x, weight, b = case(6, 50, 11)
    arguments = (x, weight, b if bias else None)
    torch.testing.assert_close(operator(*arguments), F.linear(*arguments))


@needs_compiled
@pytest.mark.parametrize("sizes", [(0, 5, 3), (4, 0, 3), (4, 5, 0)], ids=str)
def test_takes_empty_tensors(sizes):
    arguments = case(*sizes)
    torch.testing.assert_close(operator(*arguments), F.linear(*arguments))


@needs_compiled
def test_takes_any_strides():
    x, weight, bias = case(6, 50, 11)
    expected = operator(x, weight, bias)

    def spread(matrix: Tensor) -> Tensor:
        wide = torch.full((2 * matrix.size(0), matrix.size(1) + 3), torch.nan)
        wide[::2, :-3] = matrix
        return wide[::2, :-3]

    every_other = torch.full((2 * len(bias),), torch.nan)
    every_other[::2] = bias
    by_input = weight.t().contiguous().t()
    for input in (spread(x), x.t().contiguous().t()):
        assert torch.equal(operator(input, spread(weight), every_other[::2]), expected)
        found = operator(input, by_input, every_other[::2])
        torch.testing.assert_close(found, expected)  # by input, sums have another order
        assert torch.equal(operator(input, spread(by_input.t()).t(), every_other[::2]), found)


@needs_compiled
@pytest.mark.parametrize("by_input", (False, True))
@pytest.mark.parametrize("inputs", (40, 1000))
@pytest.mark.parametrize(
    ("batch", "parts"),
    [
        (FEW, [slice(0, 1), slice(3, 7)]),
        (300, [slice(0, FEW + 1), slice(1, 30), slice(200, 300)]),
    ],
)
def test_a_row_gives_the_same_bits_in_any_batch_of_a_kernel_and_with_any_threads(
    by_input, inputs, batch, parts
):
    x, weight, bias = case(batch, inputs, 50)
    if by_input:
        weight = weight.t().contiguous().t()
    whole = operator(x, weight, bias)
    for rows in parts:
        assert torch.equal(operator(x[rows], weight, bias), whole[rows])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(operator(x, weight, bias), whole)
    finally:
        torch.set_num_threads(threads)


@needs_compiled
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_row_that_is_not_finite_spoils_no_other(value):
    x, weight, bias = case(7, 30, 9)
    expected = operator(x, weight, bias)
    x[2, 3] = value
    actual = operator(x, weight, bias)
    others = torch.arange(7) != 2
    assert torch.equal(actual[others], expected[others])
    assert not actual[2].isfinite().any()


@needs_compiled
@pytest.mark.parametrize("dtype", (torch.float32, *NARROW), ids=str)
@pytest.mark.parametrize("bias", (False, True))
def test_opcheck(bias, dtype):
    x, weight, b = case(3, 10, 4)
    weight = weight.to(dtype)
    torch.library.opcheck(torch.ops.el_attention.linear, (x, weight, b if bias else None))


@needs_compiled
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(4, 9)}, r"weight: expected \[outputs, 10\]"),
        (
            {"weight": torch.zeros(4, 10).double()},
            "weight: expected dtype Float, Half or BFloat16, got Double",
        ),
        (
            {"x": torch.zeros(3, 10).double(), "weight": torch.zeros(4, 10).half()},
            "weight: expected dtype Double, got Half",
        ),
        ({"bias": torch.zeros(4).half()}, "bias: expected dtype Float, got Half"),
        ({"bias": torch.zeros(3)}, r"bias: expected \[4\]"),
        ({"x": torch.zeros(3, 10, dtype=torch.int32)}, "input: expected dtype Double"),
        ({"x": torch.zeros(10)}, r"input: expected \[rows, inputs\]"),
    ],
)
def test_says_what_it_expected(changes, message):
    names = ("x", "weight", "bias")
    arguments: dict[str, Any] = dict(zip(names, case(3, 10, 4), strict=True))
    with pytest.raises(RuntimeError, match=message):
        operator(**{**arguments, **changes})


@needs_compiled
def test_the_operator_refuses_gradients():
    x, weight, _ = case(3, 10, 4)
    with pytest.raises(RuntimeError, match="expected inputs that need no gradient"):
        operator(x, weight.requires_grad_())


def test_gradients_flow_through_the_public_function():
    x, weight, bias = case(3, 10, 4)
    linear(x, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("rows", (1, compiled.FEW_ROWS, compiled.FEW_ROWS + 1))
def test_the_public_function_takes_any_number_of_rows_and_dimensions(rows):
    x, weight, bias = case(rows, 12, 5)
    expected = F.linear(x, weight, bias)
    actual = linear(x[None, :, None], weight, bias)
    torch.testing.assert_close(actual, expected[None, :, None])


@pytest.mark.parametrize("rows", (1, FEW, FEW + 1, compiled.FEW_ROWS + 1))
@pytest.mark.parametrize("by_input", (False, True))
def test_the_public_function_gives_the_same_bits_with_a_narrow_weight(by_input, rows, operators):
    x, weight, bias = case(rows, 12, 5, torch.bfloat16)
    if by_input:
        weight = weight.t().contiguous().t()
    x, bias = x.float(), bias.float()
    expected = linear(x, weight.float(), bias)
    assert torch.equal(linear(x, weight.float(), bias, weight), expected)  # beside the wide one
    assert torch.equal(linear(x, weight, bias), expected)


@needs_compiled
@pytest.mark.parametrize(("rows", "is_read"), ((FEW, True), (FEW + 1, False)))
def test_a_narrow_weight_is_read_where_reading_takes_the_time(rows, is_read):
    x, weight, bias = case(rows, 12, 5)
    found = linear(x, weight, bias, torch.zeros_like(weight, dtype=torch.float16))
    assert torch.equal(found, bias.expand_as(found)) == is_read
