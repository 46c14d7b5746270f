"""Transfers between a device and the host, packed into one."""

from __future__ import annotations

import pytest
import torch

from el_attention.transfer import to_device, to_host
from waits import watched

CPU = torch.device("cpu")
TENSORS = (
    torch.tensor([True, False, True]),
    torch.arange(6).view(2, 3).t(),
    torch.tensor(float("nan")),
    torch.tensor([1.5, -0.0, float("-inf")], dtype=torch.float16),
    torch.empty(0, 4, dtype=torch.float64),
    torch.randn(2, 1, 3, dtype=torch.float64),
)


def test_on_a_cpu_nothing_moves() -> None:
    assert all(x is y for x, y in zip(to_host(*TENSORS), TENSORS, strict=True))
    assert all(x is y for x, y in zip(to_device(CPU, *TENSORS), TENSORS, strict=True))


def test_tensors_of_all_sizes_and_dtypes_go_over_in_one_transfer_and_come_back() -> None:
    with watched() as steps:
        host = to_host(*TENSORS)
        there = to_device(CPU, *host)
        assert to_host(*host) == host and to_device(CPU, *there) == there, "they are there already"
    assert steps[0].totals == (1, 0, 1)
    for found in (host, there):
        for x, y in zip(found, TENSORS, strict=True):
            assert x.shape == y.shape and x.dtype == y.dtype
            assert torch.equal(x.nan_to_num(7), y.nan_to_num(7))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.tolist(),
        lambda x: x[0].item(),
        lambda x: bool(x.any()),
        lambda x: int(x.max()),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.masked_select(x > 1),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: 3 in x,
        lambda x: torch.zeros(4, device="cpu").copy_(x),
    ],
)
def test_reads_of_the_device_are_counted(read) -> None:
    numbers = torch.arange(4)
    with watched() as steps:
        read(numbers)
    assert steps[0].totals == (1, 0, 0)


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: x.new_tensor([1, 2]),
        lambda x: x[[1, 2]],
        lambda x: x[torch.tensor([1, 2])],
        lambda x: x.copy_(torch.ones(4)),
        lambda x: torch.ones(4).to(x.device),
    ],
)
def test_copies_from_pageable_memory_are_counted_apart(copy) -> None:
    numbers = torch.arange(4)
    with watched() as steps:
        copy(numbers)
    assert steps[0].totals == (0, 1, 0)


def test_work_of_one_place_is_not_counted_and_that_of_both_is_refused() -> None:
    numbers = torch.arange(4)
    with watched() as steps:
        host = numbers.cpu()
        assert host.tolist() == (host + 1)[host > -1].sub(1).tolist()
        assert int(torch.zeros(2).sum()) == 0
        numbers.add_(1).index_select(0, numbers[:2])
        with pytest.raises(RuntimeError, match="tensors of the device and of the host"):
            numbers + host
    assert steps[0].totals == (1, 0, 0)
