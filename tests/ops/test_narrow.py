"""Which float32 values there are in 16 bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from el_attention.ops import NARROW_DTYPES, extension, narrowed

# Exact in one dtype alone.
FLOAT16_ALONE = [1 + 2**-10, 2.0**-24, 65504.0 - 32]
BFLOAT16_ALONE = [2.0**20, 2.0**-130, -1.5 * 2.0**100]
IN_BOTH = [0.0, -0.0, 1.5, math.inf, -math.inf]


def values(*numbers: float) -> torch.Tensor:
    """A weight [9, 7] whose last rows hold the numbers."""
    weight = torch.zeros(9, 7)
    weight.view(-1)[-len(numbers) :] = torch.tensor(numbers)
    return weight


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        (IN_BOTH, torch.float16),
        ([*IN_BOTH, *FLOAT16_ALONE], torch.float16),
        ([*IN_BOTH, *BFLOAT16_ALONE], torch.bfloat16),
    ],
)
def test_values_that_are_exact_keep_their_bits(numbers, dtype, transposed, operators):
    weight = values(*numbers)
    if transposed:
        weight = weight.t().contiguous().t()
    narrow = narrowed(weight)
    assert narrow is not None and narrow.dtype == dtype and narrow.stride() == weight.stride()
    assert same_bits(narrow.float(), weight)


@pytest.mark.parametrize(
    "numbers",
    [
        [1 / 3],
        [FLOAT16_ALONE[0], BFLOAT16_ALONE[0]],
        [1 + 2**-11],
        [65520.0],
        [2.0**-25 + 2.0**-40],
        [2.0**-149],
    ],
    ids=str,
)
def test_one_value_that_is_not_exact_leaves_the_weight_as_it_is(numbers, operators):
    assert narrowed(values(*numbers)) is None
    assert narrowed(values(*numbers, *[0.0] * 28)) is None  # in the middle


@pytest.mark.parametrize("bits", (0x7FC00000, 0x7FC00001, 0x7F800001))
def test_nan_keeps_its_bits_or_the_weight_stays_as_it_is(bits):
    weight = values(0.0)
    weight.view(torch.int32)[4, 2] = bits
    narrow = narrowed(weight)
    assert narrow is None or same_bits(narrow.float(), weight)


@pytest.mark.parametrize("dtype", NARROW_DTYPES)
def test_what_is_known_is_kept_while_it_is_true(dtype):
    weight = values(2.0**-130 if dtype == torch.bfloat16 else 1 + 2**-10, 1.5)
    known = narrowed(weight)
    assert known is not None and known.dtype == dtype
    assert narrowed(weight, known) is known
    weight[8, 6] = -2.0
    changed = narrowed(weight, known)
    assert changed is not None and changed is not known and same_bits(changed.float(), weight)
    assert narrowed(weight, known[:3]) is not known
    weight[8, 6] = 1 / 3
    assert narrowed(weight, known) is None


def test_zeros_of_another_sign_are_another_weight():
    known = narrowed(values(0.0))
    found = narrowed(values(-0.0), known)
    assert found is not None and found is not known and bool(found.signbit()[8, 6])


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_a_weight_may_be_empty(size):
    narrow = narrowed(torch.empty(size))
    assert narrow is not None and narrow.shape == size


needs_compiled = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


def is_widened(weight: torch.Tensor, narrow: torch.Tensor) -> bool:
    return bool(torch.ops.el_attention.is_widened(weight, narrow))


@needs_compiled
@pytest.mark.parametrize("dtype", NARROW_DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 85), (1, 256), (7, 99), (5, 2**14 - 1)], ids=str)
def test_the_operator_sees_every_value(size, dtype):
    narrow = torch.randn(size).to(dtype)
    weight = narrow.float()
    assert is_widened(weight, narrow) and is_widened(weight.t(), narrow.t().contiguous())
    for place in {0, weight.numel() // 2, weight.numel() - 1}:
        other = weight.clone()
        other.view(torch.int32).view(-1)[place] ^= 1
        assert not is_widened(other, narrow)


@needs_compiled
def test_opcheck():
    narrow = torch.randn(4, 9).half()
    torch.library.opcheck(torch.ops.el_attention.is_widened, (narrow.float(), narrow))


@needs_compiled
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(3, 4).double()}, "weight: expected dtype Float, got Double"),
        ({"narrow": torch.zeros(3, 4)}, "narrow: expected dtype Half or BFloat16, got Float"),
        ({"narrow": torch.zeros(4, 3).half()}, r"narrow: expected \[3, 4\], got \[4, 3\]"),
    ],
)
def test_says_what_it_expected(changes, message):
    arguments: dict[str, Any] = {"weight": torch.zeros(3, 4), "narrow": torch.zeros(3, 4).half()}
    with pytest.raises(RuntimeError, match=message):
        is_widened(**{**arguments, **changes})
