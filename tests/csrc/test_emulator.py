"""The emulator of CUDA (csrc/emulator) and the device primitives (csrc/cuda/primitives.cuh) on it.

What a primitive must give is worked out here in Python from the PTX ISA's description, so that
emulator and test cannot share a mistake. tests/csrc/emulator/faults.cpp plants faults; each must be
caught.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import emulator_build
from crossed import REST
from emulator_build import KernelError, Result, Sanitizer, SanitizerError, build, require, run

pytestmark = [*REST]

SCHEDULES = ["ascending", "descending", "round-robin", "random:1", "random:2"]
FLOAT_TYPES = {"half": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True)
def compiler() -> None:
    require()


# ---- Matrices: the layouts of fragments ----------------------------------------------------------
# PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "ldmatrix".


Layout = Callable[[int, int], tuple[int, int]]


def a_element(lane: int, i: int) -> tuple[int, int]:
    """Row and column in A [16, 16] of element i of 8 in a lane's fragment."""
    group, thread = lane >> 2, lane % 4
    row = group if i in (0, 1, 4, 5) else group + 8
    return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def b_element(lane: int, i: int) -> tuple[int, int]:
    """Row and column in B [16, 8] of element i of 4."""
    return lane % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def c_element(lane: int, i: int) -> tuple[int, int]:
    """Row and column in C [16, 8] of element i of 4."""
    return (lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)


def to_fragments(matrix: Tensor, element: Layout, count: int) -> Tensor:
    """[32, count]: the elements that each lane holds."""
    return torch.stack(
        [torch.stack([matrix[element(lane, i)] for i in range(count)]) for lane in range(32)]
    )


def from_fragments(fragments: Tensor, element: Layout, shape: tuple[int, int]) -> Tensor:
    matrix = torch.full(shape, float("nan"))
    for lane, i in itertools.product(range(32), range(fragments.shape[1])):
        matrix[element(lane, i)] = fragments[lane, i]
    return matrix


@pytest.mark.parametrize(
    ("dtype_name", "arch"), [("half", 80), ("bfloat16", 80), ("half", 75)], ids=str
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mma_multiplies_matrices_in_the_documented_layout(
    dtype_name: str, arch: int, schedule: str
) -> None:
    dtype = FLOAT_TYPES[dtype_name]
    random = torch.Generator().manual_seed(7)
    a, b, c = (
        torch.randint(-8, 9, shape, generator=random).float()  # exact in any order
        for shape in [(16, 16), (16, 8), (16, 8)]
    )
    result = run(
        build("primitives", defines=[f"EL_EMULATED_ARCH={arch}"]),
        {
            "a": to_fragments(a, a_element, 8).to(dtype),
            "b": to_fragments(b, b_element, 4).to(dtype),
            "sum": to_fragments(c, c_element, 4),
        },
        {"result": (torch.float32, (32, 4))},
        kernel=f"multiply_{dtype_name}",
        schedule=schedule,
    )
    torch.testing.assert_close(
        from_fragments(result["result"], c_element, (16, 8)), c + a @ b, rtol=0, atol=0
    )
    assert result.counters["mma_instructions"] == (1 if arch == 80 else 2)
    assert result.counters["mma_flops"] == 2 * 16 * 8 * 16


def test_mma_spreads_nan_to_its_row_only() -> None:
    a = torch.ones(16, 16)
    a[5, 3] = float("nan")
    result = run(
        build("primitives"),
        {
            "a": to_fragments(a, a_element, 8).half(),
            "b": torch.zeros(32, 4).half(),
            "sum": torch.zeros(32, 4),
        },
        {"result": (torch.float32, (32, 4))},
        kernel="multiply_half",
    )
    rows = from_fragments(result["result"], c_element, (16, 8)).isnan()
    assert rows[5].all()
    assert rows.sum() == 8


def test_ldmatrix_loads_in_the_documented_layout() -> None:
    matrices = torch.randperm(4 * 8 * 8, generator=torch.Generator().manual_seed(3)).short()
    matrices = matrices.view(4, 8, 8)
    result = run(
        build("primitives"),
        {"matrices": matrices},
        {"plain": (torch.int16, (32, 4, 2)), "transposed": (torch.int16, (32, 4, 2))},
        kernel="load_matrices",
    )
    for lane, matrix, i in itertools.product(range(32), range(4), range(2)):
        # Thread `lane` gets of row lane / 4 the elements 2 * (lane % 4) and the next.
        row, column = lane // 4, lane % 4 * 2 + i
        assert result["plain"][lane, matrix, i] == matrices[matrix, row, column]
        assert result["transposed"][lane, matrix, i] == matrices[matrix, column, row]


# ---- Other primitives ----------------------------------------------------------------------------


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype_name", FLOAT_TYPES)
def test_16_bit_numbers_widen_and_come_back(dtype_name: str) -> None:
    dtype = FLOAT_TYPES[dtype_name]
    x = torch.arange(65536).to(torch.uint16).view(dtype)  # all of them
    shape = (len(x),)
    result = run(
        build("primitives"),
        {"x": x},
        {
            "wide": (torch.float32, shape),
            "doubled": (torch.float64, shape),
            "narrow": (dtype, shape),
        },
        kernel=f"convert_{dtype_name}",
        n=len(x),
    )
    assert_same(result["wide"], x.float())
    assert_same(result["doubled"], x.double())
    assert_same(result["narrow"], x)
    assert torch.equal(result["wide"].signbit() & ~x.isnan(), x.signbit() & ~x.isnan())


@pytest.mark.parametrize("arch", [75, 80])
@pytest.mark.parametrize("dtype_name", FLOAT_TYPES)
def test_floats_round_to_nearest_even(dtype_name: str, arch: int) -> None:
    dtype = FLOAT_TYPES[dtype_name]
    random = torch.Generator().manual_seed(11)
    every_16_bits = torch.arange(65536).to(torch.uint16).view(dtype).float()
    halfway = (every_16_bits + every_16_bits.roll(-1)) / 2
    bits = torch.randint(-(2**31), 2**31, (50_000,), generator=random).int().view(torch.float32)
    near_one = torch.randn(50_000, generator=random)
    x = torch.cat([every_16_bits, halfway, bits, near_one, torch.tensor([65519.99, 65520.0])])
    n = len(x)
    result = run(
        build("primitives", defines=[f"EL_EMULATED_ARCH={arch}"]),
        {"wide_x": x},
        {"narrow": (dtype, (n,)), "packed": (dtype, (n,)), "unpacked": (torch.float32, (n,))},
        kernel=f"convert_{dtype_name}",
        n=n,
    )
    assert_same(result["narrow"], x.to(dtype))
    assert_same(result["packed"], x.to(dtype))
    assert_same(result["unpacked"], x.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exponentials_and_logarithms(dtype: torch.dtype) -> None:
    special = [float("-inf"), float("inf"), float("nan"), 0.0, 1.0, -1.0, 10.0]
    x = torch.cat([torch.tensor(special), torch.linspace(-100, 100, 201)]).to(dtype)
    outputs = {name: (dtype, x.shape) for name in ("powers", "logarithms")}
    kernel = "exponentials_float" if dtype == torch.float32 else "exponentials_double"
    result = run(build("primitives"), {"x": x}, outputs, kernel=kernel, n=len(x))
    torch.testing.assert_close(result["powers"], x.exp2(), equal_nan=True)
    torch.testing.assert_close(result["logarithms"], x.log2(), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lanes_exchange_values(dtype: torch.dtype, schedule: str) -> None:
    x = torch.randint(-99, 100, (64,), generator=torch.Generator().manual_seed(5)).to(dtype)
    names = ("from_next", "from_pair", "greatest", "total")
    result = run(
        build("primitives"),
        {"x": x},
        {**{name: (dtype, (64,)) for name in names}, "votes": (torch.uint32, (64,))},
        kernel="exchange_float" if dtype == torch.float32 else "exchange_double",
        schedule=schedule,
    )
    warps, eights = x.view(2, 32), x.view(8, 8)
    lanes = torch.arange(32)
    assert torch.equal(result["from_next"], warps.roll(-1, 1).reshape(-1))
    assert torch.equal(result["from_pair"], warps[:, lanes ^ 16].reshape(-1))
    assert torch.equal(result["greatest"], eights.amax(1, keepdim=True).expand(8, 8).reshape(-1))
    assert torch.equal(result["total"], eights.sum(1, keepdim=True).expand(8, 8).reshape(-1))
    votes = ((warps > 0).long() << lanes).sum(1, keepdim=True).expand(2, 32).reshape(-1)
    assert torch.equal(result["votes"].long(), votes)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers_of_blocks_and_groups(schedule: str) -> None:
    outputs = {"any_of": (torch.int32, (3, 128)), "grouped": (torch.int32, (128,))}
    result = run(build("primitives"), {}, outputs, kernel="barriers", schedule=schedule)
    assert torch.equal(result["any_of"], torch.tensor([[1], [0], [1]]).int().expand(3, 128))
    assert torch.equal(result["grouped"], torch.arange(128).int())
    assert result.counters["block_barriers"] == 3 + 2 * 2 * 2


def test_threads_know_where_they_are() -> None:
    result = run(
        build("primitives"), {}, {"where": (torch.int32, (2, 2, 3, 64, 6))}, kernel="positions"
    )
    for z, y, x, thread in itertools.product(range(2), range(2), range(3), range(64)):
        expected = [thread, thread % 32, thread // 32, x, y, z]
        assert result["where"][z, y, x, thread].tolist() == expected


@pytest.mark.parametrize("arch", [75, 80])
@pytest.mark.parametrize("rows", [0, 1, 31, 32])
def test_copies_write_zeros_where_they_are_not_valid(rows: int, arch: int) -> None:
    x = torch.arange(1, 4 * rows + 1, dtype=torch.int32)  # nothing to read where it is not valid
    result = run(
        build("primitives", defines=[f"EL_EMULATED_ARCH={arch}"]),
        {"x": x},
        {"copied": (torch.int32, (128,))},
        kernel="copies",
        rows=rows,
    )
    assert torch.equal(result["copied"], torch.cat([x, torch.zeros(128 - len(x)).int()]))
    assert result.counters["arrays"]["x"]["read_bytes"] == 16 * rows


# ---- Schedules -----------------------------------------------------------------------------------


def turns(schedule: str) -> list[list[int]]:
    """[256] places in the launch's order: (block, thread, first or second place), flat."""
    shape = (2 * 64 * 2,)
    outputs = {"turns": (torch.int32, shape)}
    result = run(build("primitives"), {}, outputs, kernel="order", schedule=schedule)
    order = result["turns"].argsort()
    return torch.stack([order // 128, order // 2 % 64, order % 2], 1).tolist()


def expected_order(
    blocks: list[int], visits: list[tuple[int, int]], lanes: range
) -> list[list[int]]:
    return [
        [block, warp * 32 + lane, place]
        for block in blocks
        for warp, place in visits
        for lane in lanes
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("ascending", ([0, 1], [(0, 0), (0, 1), (1, 0), (1, 1)], range(32))),
        ("descending", ([1, 0], [(1, 0), (1, 1), (0, 0), (0, 1)], range(31, -1, -1))),
        ("round-robin", ([0, 1], [(0, 0), (1, 0), (0, 1), (1, 1)], range(32))),
    ],
    ids=["ascending", "descending", "round-robin"],
)
def test_a_schedule_orders_blocks_warps_and_lanes(
    schedule: str, expected: tuple[list[int], list[tuple[int, int]], range]
) -> None:
    assert turns(schedule) == expected_order(*expected)


def test_a_random_schedule_depends_on_its_seed_only() -> None:
    first = turns("random:1")
    assert first == turns("random:1")
    assert first != turns("random:2")
    assert sorted(first) == sorted(turns("ascending"))


def test_the_portable_switch_of_stacks_gives_the_same() -> None:
    """What processors without a switch of their own use."""
    program = build("primitives", emulator_defines=["EL_EMULATOR_UCONTEXT"])
    outputs = {"any_of": (torch.int32, (3, 128)), "grouped": (torch.int32, (128,))}
    result = run(program, {}, outputs, kernel="barriers", schedule="random:1")
    assert torch.equal(result["grouped"], torch.arange(128).int())


# ---- Faults --------------------------------------------------------------------------------------

X = torch.arange(1.0, 65.0)


def run_fault(
    kernel: str,
    sanitizer: Sanitizer | None = None,
    schedule: str = "ascending",
    arch: int = 80,
    threads: int = 64,
    shared_bytes: int = 256,
    machine: str = "",
) -> Result:
    return run(
        build("faults", sanitizer=sanitizer, defines=[f"EL_EMULATED_ARCH={arch}"]),
        {"x": X},
        {"out": (torch.float32, (2, 64))},
        kernel=kernel,
        schedule=schedule,
        threads=threads,
        shared_bytes=shared_bytes,
        machine=machine or ("t4" if arch == 75 else "a100"),
    )


def gives_neighbours(result: Result, distance: int) -> bool:
    return torch.equal(result["out"], X[torch.arange(64) ^ distance].expand(2, 64))


RIGHT = {"sync_warp": 1, "sync_threads": 32, "sync_group": 32, "tile_used_again": 32, "copy": 32}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kernel", RIGHT)
def test_a_right_kernel_gives_its_result_under_each_schedule(kernel: str, schedule: str) -> None:
    assert gives_neighbours(run_fault(kernel, schedule=schedule), RIGHT[kernel])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("kernel", "distance"),
    [
        ("no_sync", 1),
        ("copy_without_wait", 32),
        ("copy_without_commit", 32),
        ("copy_waits_for_the_first_only", 32),
    ],
)
def test_missing_order_shows_in_the_values_under_each_schedule(
    kernel: str, distance: int, schedule: str
) -> None:
    assert not gives_neighbours(run_fault(kernel, schedule=schedule), distance)


@pytest.mark.parametrize(
    "kernel", ["sync_warp_for_sync_threads", "tile_used_too_early", "copy_without_barrier"]
)
def test_missing_barriers_show_in_the_values_under_some_schedule(kernel: str) -> None:
    results = [run_fault(kernel, schedule=schedule) for schedule in SCHEDULES]
    assert not all(gives_neighbours(result, 32) for result in results)


def test_a_read_from_a_lower_lane_shows_in_another_order_only() -> None:
    right = X[torch.arange(64) ^ 1].expand(2, 64)
    assert torch.equal(run_fault("missing_barrier_below", schedule="ascending")["out"], right)
    assert not torch.equal(run_fault("missing_barrier_below", schedule="descending")["out"], right)


def test_shared_memory_holds_nan_until_it_is_written() -> None:
    assert run_fault("no_sync")["out"][:, 0].isnan().all()


# Kernel -> what the message must say.
STOPPED = {
    "divergent_shuffle": r"block \(0, 0, 0\), warp 0: the lanes of a warp diverge: "
    r"lanes 0-15 in shuffle at faults.cpp:\d+; lanes 16-31 ended",
    "divergent_places": r"the lanes of a warp diverge: "
    r"lanes 0, 2, .* in shuffle at faults.cpp:\d+; lanes 1, 3, .* in shuffle at faults.cpp:\d+",
    "divergent_barrier": r"warps meet in sync_threads from different places: "
    r"threads 0-31 in sync_threads at faults.cpp:\d+; threads 32-63 in sync_threads at",
    "deadlock": r"deadlock: threads 0-31 ended; threads 32-63 in sync_threads at faults.cpp:\d+",
    "deadlock_in_groups": r"deadlock: threads 0-31 in sync_group\(1, 64\) at faults.cpp:\d+; "
    r"threads 32-63 in sync_group\(2, 64\)",
    "different_groups": r"warps wait at a barrier for different numbers of threads: "
    r"threads 0-31 in sync_group\(1, 64\) at faults.cpp:\d+; threads 32-63 in sync_group\(1, 32\)",
    "barrier_of_no_warp": r"expected a multiple of 32 threads up to 64, got 16",
    "barrier_16": r"expected a barrier from 1 to 15, got 16",
    "shuffle_from_lane_32": r"lane 31, .*: shuffle: expected a lane from 0 to 31, got 32",
    "global_read_behind": r"block \(0, 0, 0\), warp 1, lane 31, faults.cpp:\d+: "
    r"load_global reads 4 bytes at offset 256 of 'x', which has 256 bytes",
    "global_read_before": r"warp 0, lane 0, .*load_global reads 4 bytes at offset -4 of 'x'",
    "global_write_behind": r"block \(1, 0, 0\), warp 1, lane 31, faults.cpp:\d+: "
    r"store_global writes 4 bytes at offset 512 of 'out', which has 512 bytes",
    "copy_behind": r"copy_async reads 16 bytes at offset 256 of 'x', which has 256 bytes",
    "shared_read_behind": r"load_shared reads 4 bytes at offset 256 of 'tile', which has 256 bytes",
    "shared_write_before": r"store_shared writes 4 bytes at offset -4 of 'tile'",
    "ldmatrix_behind": r"lane 16, .*ldmatrix reads 16 bytes at offset 256 of 'tile'",
    "misaligned": r"load_global reads 16 bytes at an address that is 8 more than a multiple of 16",
    "write_of_read_only": r"store_global writes 4 bytes at offset 0 of 'x', which is read-only",
    "two_blocks_write": r"block \(1, 0, 0\).*of 'out', which block number 0 of this launch",
    "read_of_written": r"load_global reads 4 bytes at offset 0 of 'out', which this launch",
    "relaxed_other_value": r"of 'out', which this launch has written with another value",
    "more_shared_than_asked": r"'tile' ends at byte 260, but the launch asked for 256 bytes",
    "different_arrays": r"threads take different arrays of shared memory: 'tile' of 128 bytes at 0",
}


@pytest.mark.parametrize("kernel", STOPPED)
def test_a_fault_stops_the_launch_and_says_where(kernel: str) -> None:
    with pytest.raises(KernelError) as error:
        run_fault(kernel)
    message = str(error.value)
    assert message.startswith(f"kernel {kernel}, block (")
    assert re.search(STOPPED[kernel], message), message


def test_bfloat16_matrices_are_refused_on_sm_75() -> None:
    with pytest.raises(KernelError, match="mma of BFloat16 takes sm_80 or newer"):
        run_fault("bfloat16_on_sm_75", arch=75)


@pytest.mark.parametrize("sanitizer", [None, "thread"])
def test_threads_may_write_the_same_value_relaxed(sanitizer: Sanitizer | None) -> None:
    require(sanitizer)
    assert run_fault("relaxed_same_value", sanitizer=sanitizer)["out"][0, 0] == 7


@pytest.mark.parametrize(
    ("machine", "most"),
    [("t4", 64), ("a100", 163), ("rtx3090", 99), ("rtx4090", 99), ("h100", 227), ("b200", 227)],
)
def test_shared_memory_of_a_block_is_that_of_the_machine(machine: str, most: int) -> None:
    run_fault("sync_threads", machine=machine, shared_bytes=most * 1024)
    with pytest.raises(KernelError, match=f"a block of {machine} may have {most * 1024}$"):
        run_fault("sync_threads", machine=machine, shared_bytes=most * 1024 + 1)


@pytest.mark.parametrize("threads", [0, 16, 48, 1056])
def test_a_block_has_whole_warps(threads: int) -> None:
    with pytest.raises(KernelError, match=f"expected a multiple of 32 threads.*got {threads}"):
        run_fault("sync_threads", threads=threads)


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(KernelError, match=r"machine: expected one of t4 .* got k80"):
        run_fault("sync_threads", machine="k80")


@pytest.mark.parametrize("schedule", ["sorted", "random:x", "random:"])
def test_an_unknown_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(KernelError, match=f"schedule: expected ascending, .* got {schedule}$"):
        run_fault("sync_threads", schedule=schedule)


# ---- Sanitizers ----------------------------------------------------------------------------------


def test_a_missing_sanitizer_is_a_reason_to_skip_but_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_build, "missing", lambda sanitizer: "it is not there")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="it is not there"):
        require("thread")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="CI runs every test, but: it is not there"):
        require("thread")


@pytest.mark.parametrize("schedule", ["ascending", "descending", "round-robin"])
@pytest.mark.parametrize("kernel", RIGHT)
def test_thread_sanitizer_finds_no_race_in_a_right_kernel(kernel: str, schedule: str) -> None:
    require("thread")
    assert gives_neighbours(run_fault(kernel, "thread", schedule), RIGHT[kernel])


@pytest.mark.parametrize("schedule", ["ascending", "descending", "round-robin"])
@pytest.mark.parametrize(
    "kernel",
    [
        "no_sync",
        "shuffle_for_sync_warp",
        "sync_warp_for_sync_threads",
        "missing_barrier_below",
        "tile_used_too_early",
        "copy_without_barrier",
    ],
)
def test_thread_sanitizer_finds_a_race_in_any_order(kernel: str, schedule: str) -> None:
    require("thread")
    with pytest.raises(SanitizerError, match=r"data race[\s\S]*faults.cpp"):
        run_fault(kernel, "thread", schedule)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("kernel", ["deadlock", "divergent_shuffle", "global_read_behind"])
def test_messages_come_through_sanitizers(kernel: str, sanitizer: Sanitizer) -> None:
    require(sanitizer)
    with pytest.raises(KernelError, match=STOPPED[kernel]):
        run_fault(kernel, sanitizer)


@pytest.mark.parametrize("kernel", RIGHT)
def test_address_sanitizer_finds_nothing_in_a_right_kernel(kernel: str) -> None:
    require("address")
    assert gives_neighbours(run_fault(kernel, "address", "random:4"), RIGHT[kernel])


@pytest.mark.parametrize(
    ("kernel", "report"),
    [
        ("unseen_global_read", "AddressSanitizer: use-after-poison"),
        ("unseen_shared_write", "AddressSanitizer: use-after-poison"),
        ("local_overflow", "index 4 out of bounds"),
        ("undefined_shift", "shift exponent 32 is too large"),
    ],
)
def test_address_and_undefined_behaviour_sanitizers_catch(kernel: str, report: str) -> None:
    require("address")
    with pytest.raises(SanitizerError, match=rf"{report}[\s\S]*faults.cpp"):
        run_fault(kernel, "address")


# ---- Counters ------------------------------------------------------------------------------------


def expected_wavefronts(offsets: list[int], size: int) -> tuple[int, int]:
    """Wavefronts and those that bank conflicts cost, from the programming guide's description."""
    lanes_at_once = 32 * 4 // max(size, 4)
    total = ideal = 0
    for first in range(0, 32, lanes_at_once):
        lanes = offsets[first : first + lanes_at_once]
        words = {(offset + byte) // 4 for offset in lanes for byte in range(size)}
        total += max(sum(word % 32 == bank for word in words) for bank in range(32))
        ideal += 1
    return total, total - ideal


def measured_wavefronts(kernel: str, offsets: list[int]) -> tuple[int, int]:
    array = torch.tensor(offsets, dtype=torch.int32)
    counters = run(build("traffic"), {"offsets": array}, {}, kernel=kernel).counters
    assert sum(site["accesses"] for site in counters["shared"]) == 1
    return counters["shared_wavefronts"], counters["shared_conflicts"]


@pytest.mark.parametrize(
    ("kernel", "stride", "wavefronts", "conflicts"),
    [
        ("shared_4", 4, 1, 0),
        ("shared_4", 0, 1, 0),  # a broadcast
        ("shared_4", 8, 2, 1),
        ("shared_4", 128, 32, 31),
        ("shared_4", 132, 1, 0),  # padded
        ("shared_1", 1, 1, 0),
        ("shared_2", 2, 1, 0),
        ("shared_8", 8, 2, 0),
        ("shared_16", 16, 4, 0),
        ("shared_16", 128, 32, 28),
        ("shared_16", 144, 4, 0),  # padded
        ("ldmatrix", 16, 4, 0),
        ("ldmatrix", 128, 32, 28),
        ("ldmatrix", 144, 4, 0),  # padded
    ],
)
def test_bank_conflicts_of_strided_accesses(
    kernel: str, stride: int, wavefronts: int, conflicts: int
) -> None:
    offsets = [lane * stride for lane in range(32)]
    assert measured_wavefronts(kernel, offsets) == (wavefronts, conflicts)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_bank_conflicts_of_random_accesses(size: int) -> None:
    random = torch.Generator().manual_seed(size)
    offsets = (torch.randint(0, 2048, (32,), generator=random) * size).tolist()
    assert measured_wavefronts(f"shared_{size}", offsets) == expected_wavefronts(offsets, size)


@pytest.mark.parametrize(
    ("offsets", "sectors"),
    [
        ([4 * lane for lane in range(32)], 4),
        ([0] * 32, 1),
        ([32 * lane for lane in range(32)], 32),
        ([4 * (lane + 1) for lane in range(32)], 5),  # not on a boundary
    ],
    ids=["contiguous", "broadcast", "one per sector", "shifted"],
)
def test_global_traffic_is_counted_in_sectors(offsets: list[int], sectors: int) -> None:
    x = torch.arange(256.0)
    result = run(
        build("traffic"),
        {"x": x, "offsets": torch.tensor(offsets).int()},
        {"out": (torch.float32, (32,))},
        kernel="global",
    )
    assert torch.equal(result["out"], x[torch.tensor(offsets) // 4])
    assert result.counters["arrays"]["x"] == {
        "read_bytes": 2 * 128,
        "read_sectors": 2 * sectors,
        "unique_read_bytes": 4 * len(set(offsets)),
        "unique_read_sectors": sectors,
        "written_bytes": 0,
        "written_sectors": 0,
    }
    assert result.counters["arrays"]["out"]["written_bytes"] == 128
    assert result.counters["arrays"]["out"]["written_sectors"] == 4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_counters_of_a_whole_kernel(schedule: str) -> None:
    x = torch.randn(512)
    outputs = {"out": (torch.float32, (2, 512))}
    result = run(build("traffic"), {"x": x}, outputs, kernel="everything", schedule=schedule)
    assert torch.equal(result["out"], x.expand(2, 512))
    counters = result.counters
    blocks, warps, bytes_of_x = 2, 4, 2048
    assert {name: counters[name] for name in counters if name not in ("arrays", "shared")} == {
        "read_bytes": blocks * bytes_of_x,
        "read_sectors": blocks * bytes_of_x // 32,
        "unique_read_bytes": bytes_of_x,
        "unique_read_sectors": bytes_of_x // 32,
        "written_bytes": blocks * bytes_of_x,
        "written_sectors": blocks * bytes_of_x // 32,
        # Written once and read once, 128 bytes a wavefront, and 512 bytes by ldmatrix in each warp.
        "shared_wavefronts": blocks * 2 * bytes_of_x // 128 + warps * 512 // 128,
        "shared_conflicts": 0,
        "mma_instructions": warps * 3,
        "mma_flops": warps * 3 * 2 * 16 * 8 * 16,
        "block_barriers": blocks * 2,
    }
    by_access = {site["access"]: site for site in counters["shared"]}
    assert {name: site["accesses"] for name, site in by_access.items()} == {
        "copy_async": warps * 2,
        "load_shared": warps * 2,
        "ldmatrix": warps,
    }
