"""Every CUDA kernel, run by the emulator through its own launcher, against float64."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from torch import Tensor

from crossed import REST
from el_attention.ops import reference
from emulated import Emulation, accumulator, plan_of, report_of
from emulator_build import Result, require
from oracle import DTYPES, Call, Size, exact, expanded, projected, random_call

SCHEDULES = ["ascending", "descending", "round-robin", "random:1", "random:2"]
HALVES = (torch.float16, torch.bfloat16)
A100 = Emulation("a100")
T4 = Emulation("t4")


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    require()


# ---- What is right -------------------------------------------------------------------------------


def plain(call: Call) -> tuple[Tensor, Tensor]:
    """Context and lse as plain PyTorch computes them in the dtype, with float32 accumulation."""
    wide = accumulator(call.query.dtype)

    def gather(segments: list[Tensor]) -> Tensor:
        parts = [p[:, c].to(wide) for p, c in zip(segments, call.columns, strict=True)]
        return torch.cat(parts).permute(1, 2, 0, 3).nan_to_num(0.0, 0.0, 0.0)

    beam, heads = call.query.shape[1:3]
    keys = gather(call.keys)
    query = call.query.to(wide).transpose(1, 2).unflatten(1, (keys.size(1), -1)).flatten(2, 3)
    scores = (query @ keys.transpose(-1, -2)).unflatten(2, (-1, beam)).flatten(1, 2)
    scores = scores.transpose(1, 2)  # [G, B, H, U]
    if call.bias is not None:
        scores = scores + call.bias[:, None]
    if call.visible is not None:
        scores = scores.masked_fill(~call.visible[:, :, None], -math.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.nan_to_num(neginf=0.0).unsqueeze(-1)).exp()
    weights = weights.to(call.query.dtype).to(wide)
    values = gather(call.values)
    weights = weights.transpose(1, 2).unflatten(1, (values.size(1), -1)).flatten(2, 3)
    context = (weights @ values).unflatten(2, (-1, beam)).flatten(1, 2).transpose(1, 2)
    assert context.size(2) == heads
    return context.to(call.query.dtype), lse


def assert_right(call: Call, result: Result) -> None:
    """The error against float64 is at most about twice that of `plain`."""
    context, lse, _ = exact(call)
    plain_context, plain_lse = plain(call)
    eps = torch.finfo(accumulator(call.query.dtype)).eps
    assert not result["context"].isnan().any()
    assert torch.equal(result["lse"].isinf(), lse.isinf())
    blind = lse.isinf()
    assert result["context"][blind].eq(0).all()

    def error(found: Tensor, right: Tensor) -> float:
        difference = (found.double() - right).masked_fill(
            blind.view(*blind.shape, *[1] * (found.dim() - 3)), 0.0
        )
        return float(difference.abs().max()) if difference.numel() else 0.0

    scale = max(1.0, float(lse.masked_fill(blind, 0.0).abs().max()) if lse.numel() else 0.0)
    assert error(result["lse"], lse) <= 2 * error(plain_lse, lse) + 8 * eps * scale
    assert error(result["context"], context) <= 2 * error(plain_context, context) + 32 * eps


def poisoned(call: Call, visible: Tensor) -> Call:
    """The call with other visibility; rows that no beam of a sentence sees hold NaN and inf."""
    keys, values, start = [], [], 0
    for key, value, columns in zip(call.keys, call.values, call.columns, strict=True):
        seen = visible[:, :, start : start + key.size(0)].any(1).t()
        start += key.size(0)
        dead = torch.ones(key.shape[:2], dtype=torch.bool)
        dead[:, columns] = ~seen
        poison = torch.full_like(key, math.nan)
        poison[..., ::2] = math.inf
        keys.append(torch.where(dead[:, :, None, None], poison, key))
        if value is key:
            values.append(keys[-1])
        else:
            values.append(value.masked_fill(dead[:, :, None, None], math.nan))
    return dataclasses.replace(call, keys=keys, values=values, visible=visible)


def strided(call: Call, pad: int) -> Call:
    """The call with segments whose rows, columns and heads lie apart, NaN between them."""

    def spread(segment: Tensor) -> Tensor:
        rows, columns, heads, width = segment.shape
        storage = segment.new_full((2 * rows + 1, heads, columns + 1, width + pad), math.nan)
        view = storage[1::2, :, 1:, :width].transpose(1, 2)
        view.copy_(segment)
        return view

    keys = [spread(key) for key in call.keys]
    values = [
        key if value is old else spread(value)
        for key, value, old in zip(keys, call.values, call.keys, strict=True)
    ]
    return dataclasses.replace(call, keys=keys, values=values)


# ---- Tensor cores --------------------------------------------------------------------------------

EXPANDED = [
    expanded(1, 1, 1, 64, 1),
    expanded(2, 3, 2, 64, 37, 5),
    expanded(3, 2, 8, 128, 33),
    expanded(2, 4, 8, 192, 50, 1, 16),
    expanded(1, 5, 13, 256, 40),  # 65 queries, four row groups
    expanded(2, 4, 8, 512, 70, 9),
    expanded(1, 3, 5, 576, 20),
    expanded(1, 33, 1, 64, 20),  # more beams than bits
    expanded(1, 65, 2, 64, 40),
    expanded(1, 4, 12, 768, 33),
    expanded(1, 4, 16, 1024, 18),
    expanded(1, 2, 17, 1088, 17),
    expanded(1, 1, 16, 1536, 33),
    expanded(1, 1, 17, 1600, 18),
    expanded(1, 1, 3, 72, 19),  # any multiple of 8
]


@pytest.mark.parametrize("seen", ["all", "by all beams", "by each beam"])
@pytest.mark.parametrize("size", EXPANDED, ids=str)
def test_tensor_cores_equal_float64(size, seen) -> None:
    dtype = HALVES[(len(seen) + size.width // 64) % 2]
    call = random_call(size, dtype, seen=seen)
    result = A100.attend(call, "expanded_query")
    assert plan_of(result).tensor_cores
    assert_right(call, result)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("size", EXPANDED, ids=str)
def test_tensor_cores_add_a_bias(size, splits) -> None:
    index = EXPANDED.index(size) + splits
    seen = ["all", "by all beams", "by each beam"][index % 3]
    call = random_call(size, HALVES[index % 2], seen=seen, biased=True)
    assert_right(call, A100.attend(call, "expanded_query", splits))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("width", range(64, 1665, 64))
def test_tensor_cores_equal_float64_for_every_width(width, dtype) -> None:
    chance = random.Random(width)
    size = expanded(1, chance.randint(1, 5), chance.randint(1, 16), width, chance.randint(1, 60), 9)
    call = random_call(size, dtype, seen="by each beam", seed=width)
    assert_right(call, A100.attend(call, "expanded_query"))


@pytest.mark.slow
@pytest.mark.parametrize("queries", [1, 15, 16, 17, 31, 32, 48, 63, 64, 65, 127, 129, 300, 512])
@pytest.mark.parametrize("width", [64, 320, 512, 1024, 1280])
def test_tensor_cores_equal_float64_for_every_number_of_queries(queries, width) -> None:
    beam = 4 if queries % 4 == 0 else 1
    call = random_call(expanded(1, beam, queries // beam, width, 35), torch.float16)
    assert_right(call, A100.attend(call, "expanded_query"))


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=REST if n % 2 else (), id=str(size))
        for n, size in enumerate(EXPANDED[1:11:3])
    ],
)
def test_sm_75_equals_float64(size) -> None:
    call = random_call(size, torch.float16)
    assert_right(call, T4.attend(call, "expanded_query"))


@pytest.mark.parametrize(
    ("machine", "size", "stages"),
    [
        ("t4", expanded(1, 2, 16, 1024, 70), 1),
        ("t4", expanded(1, 2, 16, 512, 70), 2),
        ("a100", expanded(1, 1, 16, 1536, 70), 2),
        ("h100", expanded(1, 2, 16, 1024, 150), 4),
        ("a100", expanded(1, 1, 16, 1152, 100), 3),
    ],
)
def test_any_number_of_stages_equals_float64(machine, size, stages) -> None:
    call = random_call(size, torch.float16, seen="all")
    visible = torch.ones(1, size.beam, sum(size.lengths), dtype=torch.bool)
    visible[:, :, 20:50] = False  # a tile is left out, others are read in part
    call = poisoned(call, visible)
    result = Emulation(machine).attend(call, "expanded_query", splits=1)
    assert plan_of(result).stages == stages
    assert_right(call, result)


# ---- Without tensor cores ------------------------------------------------------------------------

SIMT = [
    projected(1, 1, 1, 1, 1),
    projected(2, 3, 2, 16, 40, 3),
    projected(2, 5, 3, 13, 70, 1, 9),
    projected(1, 9, 2, 64, 130),  # two tiles of queries
    projected(1, 65, 1, 8, 20),
    Size(2, 3, 4, 4, 24, 40, (50, 2)),
    Size(1, 3, 4, 1, 7, 300, (30,)),
    Size(1, 2, 3, 3, 6, 1, (33,)),
    expanded(2, 3, 2, 64, 37, 5),
    expanded(1, 1, 2, 1600, 20),
    expanded(1, 2, 1, 2047, 10),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIMT, ids=str)
def test_simt_equals_float64(size, dtype) -> None:
    seen = ["all", "by all beams", "by each beam"][(size.width + DTYPES.index(dtype)) % 3]
    call = random_call(size, dtype, seen=seen)
    result = A100.attend(call, "simt")
    assert not plan_of(result).tensor_cores
    assert_right(call, result)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIMT, ids=str)
def test_simt_adds_a_bias(size, dtype) -> None:
    index = SIMT.index(size) + DTYPES.index(dtype)
    seen = ["all", "by all beams", "by each beam"][index % 3]
    call = random_call(size, dtype, seen=seen, biased=True)
    assert_right(call, A100.attend(call, "simt", splits=1 + index % 2))


@pytest.mark.parametrize("seen", ["all", "by all beams", "by each beam"])
@pytest.mark.parametrize("size", [SIMT[2], SIMT[9]], ids=str)
def test_simt_equals_float64_on_sm_75(size, seen) -> None:
    call = random_call(size, torch.float32, seen=seen)
    assert_right(call, T4.attend(call, "simt"))


# ---- Both ----------------------------------------------------------------------------------------

KERNELS = [
    ("expanded_query", torch.float16, expanded(3, 4, 5, 136, 90, 40, 3)),
    ("simt", torch.float32, projected(3, 4, 2, 12, 90, 40, 3)),
]
both = pytest.mark.parametrize(
    ("kernel", "dtype", "size"), KERNELS, ids=[kernel for kernel, *_ in KERNELS]
)


def rows_of(size: Size) -> int:
    return sum(size.lengths)


@both
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_is_not_read(kernel, dtype, size, side) -> None:
    rows = rows_of(size)
    position = torch.arange(rows)
    first = torch.tensor([0, 17, 100] if side != "right" else [0, 0, 0])
    last = torch.tensor([rows, rows - 19, 101] if side != "left" else [rows] * 3)
    visible = (position >= first[:, None]) & (position < last[:, None])
    call = poisoned(random_call(size, dtype, seen="all"), visible.unsqueeze(1))
    result = A100.attend(call, kernel, splits=1)
    assert_right(call, result)
    seen = sum(int(visible[g].sum()) for g in range(3))
    width = sum(
        t.size(2) * t.size(3) for t in {id(t): t for t in (call.keys[0], call.values[0])}.values()
    )
    arrays = result.counters["arrays"]
    read = sum(a["unique_read_bytes"] for n, a in arrays.items() if n[:4] in ("keys", "valu"))
    assert read == seen * width * call.query.element_size()


@both
@pytest.mark.parametrize("pad", [8, 1])
def test_strided_rows_equal_float64(kernel, dtype, size, pad) -> None:
    call = strided(random_call(size, dtype), pad)
    if kernel == "expanded_query" and pad == 1:
        with pytest.raises(RuntimeError, match="aligned to 16 bytes"):
            A100.attend(call, kernel)
        kernel = "best"
    result = A100.attend(call, kernel)
    assert plan_of(result).tensor_cores == (kernel == "expanded_query")
    assert_right(call, result)


@both
@pytest.mark.parametrize("splits", [1, 2, 3, 64])
def test_any_number_of_splits_equals_float64(kernel, dtype, size, splits) -> None:
    visible = torch.rand(3, 4, rows_of(size), generator=torch.Generator().manual_seed(1)) < 0.5
    visible[0] = False  # a sentence that sees nothing
    visible[1, :, 64:] = False  # ranges of which nothing is seen
    visible[2, 1:, :64] = False
    visible[2, 3] = False  # a beam that sees nothing
    call = poisoned(random_call(size, dtype, seen="all"), visible)
    result = A100.attend(call, kernel, splits)
    assert plan_of(result).splits == min(splits, 3)
    assert_right(call, result)


@both
def test_one_bias_may_serve_all_sentences(kernel, dtype, size) -> None:
    call = random_call(size, dtype, seen="all", biased=True)
    assert call.bias is not None
    call = dataclasses.replace(call, bias=call.bias[:1].expand(3, -1, -1))
    assert_right(call, A100.attend(call, kernel))


@both
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_scores_may_grow_from_row_to_row(kernel, dtype, size, order) -> None:
    call = random_call(size, dtype, seen="all")
    query = torch.zeros_like(call.query)
    query[..., 0] = torch.arange(1, query.size(1) + 1, dtype=dtype).view(1, -1, 1)
    rows = torch.arange(rows_of(size), dtype=dtype)
    start = 0
    for keys in call.keys:
        growth = rows[start : start + keys.size(0)] / 4
        keys[..., 0] = (growth if order == "rising" else growth.max() - growth)[:, None, None]
        start += keys.size(0)
    # Exponents reach 133: without a reference that follows the scores, they would overflow.
    call = dataclasses.replace(call, query=query)
    assert_right(call, A100.attend(call, kernel, splits=1))


@pytest.mark.parametrize("width", [512, 768, 1024])
@pytest.mark.parametrize("queries", [16, 64])
def test_states_are_read_once_and_shared_memory_without_conflicts(queries, width) -> None:
    rows = 96
    call = random_call(expanded(1, 4, queries // 4, width, rows), torch.float16, seen="all")
    result = A100.attend(call, "expanded_query", splits=1)
    plan, counters = plan_of(result), result.counters
    states = counters["arrays"]["keys0"]
    assert states["unique_read_bytes"] == 2 * rows * width
    assert states["read_bytes"] == math.ceil(queries / plan.queries) * 2 * rows * width
    assert states["read_sectors"] * 32 == states["read_bytes"]
    assert plan.queries == min(queries, 64 if width == 512 else 32)
    assert counters["shared_conflicts"] == 0
    assert counters["mma_flops"] == 4 * queries * rows * width


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_key_head_is_read_once_for_all_beams_and_without_conflicts(dtype) -> None:
    call = random_call(projected(1, 5, 3, 64, 130), dtype, seen="all")
    result = A100.attend(call, "simt", splits=1)
    for name in ("keys0", "values0"):
        states = result.counters["arrays"][name]
        assert states["read_bytes"] == states["unique_read_bytes"]
        assert states["read_bytes"] == 130 * 3 * 64 * call.query.element_size()
    assert result.counters["shared_conflicts"] == 0


@both
def test_no_rows_give_zero_and_minus_infinity(kernel, dtype, size) -> None:
    size = dataclasses.replace(size, lengths=(0, 0))
    result = A100.attend(random_call(size, dtype, seen="all"), kernel)
    assert result["context"].eq(0).all()
    assert result["lse"].eq(-math.inf).all()


@both
def test_segments_without_rows_are_passed_over(kernel, dtype, size) -> None:
    call = random_call(dataclasses.replace(size, lengths=(0, 20, 0, 0, 7, 0)), dtype)
    assert_right(call, A100.attend(call, kernel))


@both
def test_sixteen_segments_equal_float64(kernel, dtype, size) -> None:
    call = random_call(dataclasses.replace(size, lengths=tuple(range(1, 17))), dtype)
    assert_right(call, A100.attend(call, kernel))


@both
def test_nan_that_a_beam_sees_is_not_lost(kernel, dtype, size) -> None:
    call = random_call(size, dtype, seen="all")
    visible = torch.ones(3, 4, rows_of(size), dtype=torch.bool)
    visible[0, 0, 5] = False
    call.keys[0][5, call.columns[0][0]] = math.nan
    result = A100.attend(dataclasses.replace(call, visible=visible), kernel)
    nan = result["lse"].isnan()
    assert nan[0, 1:].all() and not nan[0, 0].any() and not nan[1:].any()


@both
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["keys", "values"])
def test_rows_that_a_beam_does_not_see_count_as_not_there(
    kernel, dtype, size, part, poison, splits, biased
) -> None:
    visible = torch.rand(3, 4, rows_of(size), generator=torch.Generator().manual_seed(3)) < 0.7
    visible[1, :, [7, 70]] = False
    visible[1, 1, 7] = visible[1, 2, 70] = True  # beams that must not be lost to each other
    visible[1, 3] = False  # nothing: zeros, whatever the rows hold
    visible[2, :, 5] = True  # NaN that all beams see stay
    clean = random_call(size, dtype, seen="all", biased=biased)
    clean = dataclasses.replace(clean, visible=visible)
    keys = [key.clone() for key in clean.keys]
    own = clean.values[0] is not clean.keys[0]
    values = [value.clone() for value in clean.values] if own else keys
    rows = keys if part == "keys" else values
    for group, row in ((1, 7), (1, 70), (2, 5)):
        rows[0][row, clean.columns[0][group], :, 0] = poison
    call = dataclasses.replace(clean, keys=keys, values=values)
    result = A100.attend(call, kernel, splits)
    seen = torch.zeros(3, 4, dtype=torch.bool)
    seen[1, 1] = seen[1, 2] = seen[2] = True
    if math.isnan(poison) or (kernel == "simt" and part == "values"):  # else a score may be -inf
        assert not result["context"][seen].isfinite().all(-1).any()
    free = ~seen[:, :, None, None]
    context = torch.where(free, result["context"], exact(clean)[0].to(dtype))
    lse = torch.where(free[..., 0], result["lse"], exact(clean)[1].to(result["lse"].dtype))
    assert_right(clean, Result({"context": context, "lse": lse}, result.counters))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [size for size in SIMT if size.beam > 1], ids=str)
def test_hidden_nan_is_repaired_in_every_size(size, dtype) -> None:
    clean = random_call(size, dtype, seen="by each beam")
    assert clean.visible is not None
    visible = clean.visible.clone()
    visible[:, 0, 0], visible[:, 1:, 0] = True, False
    clean = dataclasses.replace(clean, visible=visible)
    shared = clean.values[0] is clean.keys[0]
    values = [value.clone() for value in clean.values]
    values[0][0] = math.nan
    keys = values if shared else clean.keys
    result = A100.attend(dataclasses.replace(clean, keys=keys, values=values), "simt")
    right = exact(clean)
    assert result["context"][:, 0].isnan().all()
    result["context"][:, 0] = right[0][:, 0].to(dtype)
    result["lse"][:, 0] = right[1][:, 0].to(result["lse"].dtype)
    assert_right(clean, result)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_repair_in_chunks_of_rows_gives_the_same_bits_in_any_schedule(schedule) -> None:
    size = projected(1, 2, 1, 8, 600)
    clean = random_call(size, torch.float32, seen="all")
    visible = torch.ones(1, 2, 600, dtype=torch.bool)
    visible[0, 1, 599] = False
    clean = dataclasses.replace(clean, visible=visible)
    call = dataclasses.replace(clean, values=[value.clone() for value in clean.values])
    call.values[0][599] = math.nan
    found = Emulation("a100", schedule).attend(call, "simt")["context"][0, 1]
    assert torch.equal(found, A100.attend(call, "simt")["context"][0, 1])
    torch.testing.assert_close(found.double(), exact(clean)[0][0, 1], rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("column", [-1, 1 << 40, None], ids=["-1", "2^40", "C"])
def test_a_column_out_of_range_is_reported_and_makes_its_sentence_nan(
    kernel, dtype, size, column, splits
) -> None:
    clean = random_call(size, dtype)
    columns = [each.clone() for each in clean.columns]
    columns[1][2] = wrong = clean.keys[1].size(1) if column is None else column
    call = dataclasses.replace(clean, columns=columns)
    result, expected = (A100.attend(each, kernel, splits=splits) for each in (call, clean))
    assert report_of(expected) == ""
    assert report_of(result).startswith(
        f"attend: columns: expected [0, C), the columns of their segment, got {wrong}."
    )
    others = [group for group in range(call.query.size(0)) if group != 2]
    for name in ("context", "lse"):
        assert result[name][2].isnan().all()
        assert torch.equal(result[name][others], expected[name][others])


@both
@pytest.mark.parametrize("splits", [1, 2])
def test_a_query_may_have_strides(kernel, dtype, size, splits) -> None:
    call = random_call(size, dtype)
    by_head = call.query.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    assert not by_head.is_contiguous()
    strided = A100.attend(dataclasses.replace(call, query=by_head), kernel, splits=splits)
    whole = A100.attend(call, kernel, splits=splits)
    assert torch.equal(strided["context"], whole["context"])
    assert torch.equal(strided["lse"], whole["lse"])


def test_a_query_at_an_odd_element_is_not_for_tensor_cores() -> None:
    call = random_call(expanded(2, 2, 3, 64, 20), torch.float16)
    odd = torch.empty(call.query.numel() + 1, dtype=torch.float16)[1:].view(call.query.shape)
    call = dataclasses.replace(call, query=odd.copy_(call.query))
    with pytest.raises(RuntimeError, match="it takes a query aligned to 4 bytes"):
        A100.attend(call, "expanded_query")
    result = A100.attend(call)
    assert not plan_of(result).tensor_cores
    assert_right(call, result)


@both
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_schedule_gives_the_same_bits(kernel, dtype, size, schedule, biased) -> None:
    call = random_call(size, dtype, biased=biased)
    result = Emulation("a100", schedule).attend(call, kernel, splits=2)
    assert_right(call, result)
    first = A100.attend(call, kernel, splits=2)
    assert torch.equal(result["context"], first["context"])
    assert torch.equal(result["lse"], first["lse"])


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("schedule", ["ascending", "random:3"])
def test_sanitizers_find_nothing(sanitizer, schedule) -> None:
    require(sanitizer)
    emulation = Emulation("a100", schedule, sanitizer)
    for size, dtype in [
        (expanded(1, 4, 8, 512, 70, 9), torch.float16),
        (expanded(1, 4, 8, 1024, 40), torch.bfloat16),
        (expanded(1, 1, 5, 1088, 40), torch.bfloat16),
    ]:
        call = random_call(size, dtype, biased=size.width == 512)
        assert_right(call, emulation.attend(call, "expanded_query", splits=2))
    for dtype in DTYPES:
        call = random_call(projected(2, 3, 2, 16, 90, 3), dtype, biased=True)
        result = emulation.attend(call, "simt", splits=2)
        assert_right(call, result)
        call.values[0][:, :, :, 3] = math.nan  # everything is repaired
        emulation.attend(call, "simt", splits=2)
        emulation.weights(call, result["lse"])
        emulation.block_ngrams(torch.rand(2, 9).to(dtype), torch.ones(2, 8).long(), 2, 8, None)


# ---- Choice --------------------------------------------------------------------------------------


def test_the_launcher_prefers_tensor_cores_and_says_why_not() -> None:
    size = expanded(1, 2, 3, 64, 9)
    assert plan_of(A100.attend(random_call(size, torch.float16))).tensor_cores
    for emulation, call, reason in [
        (A100, random_call(size, torch.float32), "16-bit"),
        (T4, random_call(size, torch.bfloat16), "sm_80"),
        (A100, random_call(projected(1, 2, 3, 64, 9), torch.float16), "one kv head"),
        (A100, random_call(expanded(1, 1, 1, 1736, 2), torch.float16), "width up to 1728"),
        (A100, random_call(Size(1, 2, 3, 1, 64, 32, (9,)), torch.float16), "are the keys"),
        (T4, random_call(expanded(1, 1, 1, 1536, 2), torch.float16), "shared memory"),
    ]:
        with pytest.raises(RuntimeError, match=reason):
            emulation.attend(call, "expanded_query")
        assert not plan_of(emulation.attend(call)).tensor_cores


def test_a_width_that_no_kernel_takes_is_named() -> None:
    call = random_call(expanded(1, 1, 1, 2056, 2), torch.float16)
    with pytest.raises(RuntimeError, match="simt: it takes values of a width up to 2048"):
        A100.attend(call)


def test_rows_are_split_only_where_blocks_are_few() -> None:
    few = random_call(expanded(1, 1, 4, 64, 700), torch.float16, seen="all")
    many = random_call(expanded(40, 1, 1, 64, 64), torch.float16, seen="all")
    assert plan_of(A100.attend(few)).splits > 1
    assert plan_of(A100.attend(many)).splits == 1


# ---- Weights and n-grams -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "size",
    [expanded(2, 3, 2, 64, 37, 50), projected(2, 3, 2, 13, 70, 3), projected(1, 20, 1, 5, 9)],
    ids=str,
)
@pytest.mark.parametrize("seen", ["all", "by each beam"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
def test_weights_equal_float64(size, dtype, seen, biased) -> None:
    call = random_call(size, dtype, seen=seen, biased=biased)
    _, lse, weights = exact(call)
    found = A100.weights(call, lse.to(accumulator(dtype)))
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6
    torch.testing.assert_close(found.double(), weights, rtol=tolerance, atol=tolerance)
    if call.visible is not None:
        assert found.masked_select(~call.visible[:, :, None].expand_as(found)).eq(0).all()
    if call.bias is not None:
        assert found.masked_select(call.bias.isneginf()[:, None].expand_as(found)).eq(0).all()


def test_weights_of_a_width_beyond_shared_memory_are_refused() -> None:
    call = random_call(projected(1, 1, 1, 20000, 1), torch.float32, seen="all")
    with pytest.raises(RuntimeError, match="width 20000 takes more shared memory than sm_75"):
        T4.weights(call, torch.zeros(1, 1, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_block_ngrams_equals_the_reference(size, dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    tokens = torch.randint(4, 7, (6, 150), generator=generator)
    lprobs = torch.rand(6, 40, generator=generator).to(dtype)
    mask = torch.tensor([False, True, False, False, True, False])
    for length in (1, 2, 5, 31, 150):
        forced = mask if length % 2 == 0 else None
        expected = lprobs.clone()
        reference.block_ngrams_(expected, tokens, size, length, forced)
        assert torch.equal(A100.block_ngrams(lprobs, tokens, size, length, forced), expected)


@pytest.mark.parametrize("token", [-3, 9])
def test_a_token_outside_the_vocabulary_is_reported(token) -> None:
    tokens = torch.tensor([[0, 4, token, 4], [0, 4, 5, 4]])
    result = A100.block_ngrams_and_report(torch.zeros(2, 9), tokens, 2, 4, None)
    message = f"block_ngrams_: tokens: expected [0, vocabulary), got {token}."
    assert report_of(result).startswith(message)
    assert result["lprobs"].isneginf().nonzero().tolist() == [[1, 5]]


def test_weights_of_a_column_out_of_range_are_nan_and_reported() -> None:
    call = random_call(expanded(3, 2, 3, 64, 70), torch.float32)
    lse = A100.attend(call)["lse"]
    expected = A100.weights(call, lse)
    call.columns[0][1] = -7
    result = A100.weights_and_report(call, lse)
    assert report_of(result).startswith(
        "weights: columns: expected [0, C), the columns of their segment, got -7."
    )
    assert result["weights"][1].isnan().all()
    assert torch.equal(result["weights"][[0, 2]], expected[[0, 2]])
