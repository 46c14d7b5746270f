"""The tests of the kernels notice bugs: each of these, planted in a copy, makes one fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emulator_build import require
from mutation import Mutation, is_caught, plant

KERNELS = "tests/csrc/test_cuda_kernels.py"
CANDIDATES = "tests/csrc/test_cuda_candidates.py"

MUTATIONS = [
    Mutation(
        what="a slice of a tile is read before its copies have landed",
        file="cuda/expanded_query.cuh",
        old="    if (grid_.stages == 2) {\n      wait_copies<0>();",
        new="    if (grid_.stages == 2) {\n      wait_copies<1>();",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_number_of_stages_equals_float64"),
    ),
    Mutation(
        what="a tile is copied over the one in use",
        file="cuda/expanded_query.cuh",
        old="stage == 0 ? grid_.stages - 1 : stage - 1);",
        new="stage);",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_number_of_stages_equals_float64"),
    ),
    Mutation(
        what="the warps of a slice do not wait for each other's copies",
        file="cuda/expanded_query.cuh",
        old="      sync_group(1 + slice(), grid_.row_groups * kWarpSize);",
        new="      sync_warp();",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="scores are summed up before all slices are there",
        file="cuda/expanded_query.cuh",
        old="      score(stage);\n      sync_threads();\n",
        new="      score(stage);\n",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="weights are used before they are written",
        file="cuda/expanded_query.cuh",
        old="      weigh(tile);\n      sync_threads();\n",
        new="      weigh(tile);\n",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="a lane writes the softmax that its neighbours still read",
        file="cuda/expanded_query.cuh",
        old="        sync_warp();  // all four lanes have read what one of them writes\n",
        new="",
        driver="attend",
        tests=(KERNELS, "-k", "test_sanitizers_find_nothing and thread and ascending"),
    ),
    Mutation(
        what="the shares of the splits are read before they are written",
        file="cuda/combine.cuh",
        old="  sync_threads();\n",
        new="",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_schedule_gives_the_same_bits"),
    ),
    Mutation(
        what="simt adds values before the weights are written",
        file="cuda/simt.cuh",
        old="    sync_threads();\n  }\n\n  // Unites",
        new="  }\n\n  // Unites",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_schedule_gives_the_same_bits"),
    ),
    Mutation(
        what="simt gathers sums over those of the query before",
        file="cuda/simt.cuh",
        old="      sync_threads();\n      gather_sums",
        new="      gather_sums",
        driver="attend",
        tests=(
            KERNELS,
            "-k",
            "test_sanitizers_find_nothing and thread and ascending",
        ),
    ),
    Mutation(
        what="the union of the beams is formed before their bits are there",
        file="cuda/rows.cuh",
        old="    const bool lost = sync_threads_or(!located);\n",
        new="    const bool lost = !located;\n",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="a block does not learn that one of its threads has found a wrong column",
        file="cuda/repair.cuh",
        old="  if (sync_threads_or(!located)) return;",
        new="  if (!located) return;",
        driver="attend",
        tests=(KERNELS, "-k", "test_a_column_out_of_range_is_reported"),
    ),
    Mutation(
        what="heads of a query are read where those of a contiguous one lie",
        file="cuda/rows.cuh",
        old="head_of(query) * queries.head;",
        new="head_of(query) * queries.beam;",
        driver="attend",
        tests=(KERNELS, "-k", "test_a_query_may_have_strides"),
    ),
    Mutation(
        what="the check at first use lets a lost range of rows pass",
        file="cuda/combine.cuh",
        old="    for (int i = 0; i < split.count; ++i) {\n      sum = fma(",
        new="    for (int i = 1; i < split.count; ++i) {\n      sum = fma(",
        driver="attend",
        tests=("tests/ops/test_trust.py", "-k", "test_emulated_kernels_pass and attend"),
    ),
    Mutation(
        what="the check at first use lets a query of strides pass that is read as contiguous",
        file="cuda/rows.cuh",
        old="beam_of(query) * queries.beam",
        new="beam_of(query) * queries.head",
        driver="attend",
        tests=("tests/ops/test_trust.py", "-k", "test_emulated_kernels_pass and attend"),
    ),
    Mutation(
        what="a beam sees what any beam sees",
        file="cuda/expanded_query.cuh",
        old="storage_.seen.by_line(line, tile * kTile)",
        new="storage_.seen.by_any(tile * kTile)",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="the second half of a tile has the bits of the first",
        file="cuda/expanded_query.cuh",
        old="sees >> row & 1",
        new="sees >> row % 8 & 1",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="the last beam is left out of the union",
        file="cuda/rows.cuh",
        old="line <= lines; ++line",
        new="line < lines; ++line",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="the row after the last is read",
        file="cuda/rows.cuh",
        old="bool sees = row < work.rows &&",
        new="bool sees = row <= work.rows &&",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_number_of_splits_equals_float64"),
    ),
    Mutation(
        what="the first row of a segment is taken from the segment before",
        file="cuda/rows.cuh",
        old="row >= rows.segments[i].rows; ++i",
        new="row > rows.segments[i].rows; ++i",
        driver="attend",
        tests=(KERNELS, "-k", "test_sixteen_segments"),
    ),
    Mutation(
        what="the last range is as long as the others",
        file="cuda/rows.cuh",
        old="smaller(rows_per_block, static_cast<int>(sizes.rows) - work.first_row)",
        new="rows_per_block",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_number_of_splits_equals_float64"),
    ),
    Mutation(
        what="columns beyond the width are read",
        file="cuda/expanded_query.cuh",
        old="const bool inside = slice() * kSlice + column < params_.sizes.width;",
        new="const bool inside = true;",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="the last n-gram is not looked at",
        file="cuda/ngrams.cuh",
        old="first + params.size <= params.length;",
        new="first + params.size < params.length;",
        driver="attend",
        tests=(KERNELS, "-k", "test_block_ngrams_equals"),
    ),
    Mutation(
        what="the fragments of two key columns are exchanged",
        file="cuda/expanded_query.cuh",
        old="queries_[i][step], keys[0], keys[1]);",
        new="queries_[i][step], keys[1], keys[0]);",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="the values are not transposed",
        file="cuda/expanded_query.cuh",
        old="ldmatrix_x4_trans(values",
        new="ldmatrix_x4(values",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_equal_float64 and not every"),
    ),
    Mutation(
        what="rows of a tile lie without padding",
        file="cuda/expanded_query.cuh",
        old="""slice + 8;  // elements of a row of a tile in shared memory
  static constexpr int kMaxWidth = slice * max_warps;
  static_assert(kPitch / 8 % 2 == 1, "rows of an even number of 16 bytes cause bank conflicts");
""",
        new="""slice;
  static constexpr int kMaxWidth = slice * max_warps;
""",
        driver="attend",
        tests=(KERNELS, "-k", "read_once"),
    ),
    Mutation(
        what="lanes keep each other's sums",
        file="cuda/scores.cuh",
        old="const A sent = upper ? values[i] : values[i + half];",
        new="const A sent = upper ? values[i + half] : values[i];",
        driver="attend",
        tests=(KERNELS, "-k", "test_simt_equals_float64"),
    ),
    Mutation(
        what="sums are not rescaled where scores grow",
        file="cuda/expanded_query.cuh",
        old="contexts_[i][n][2] *= lower;",
        new="contexts_[i][n][2] *= upper;",
        driver="attend",
        tests=(KERNELS, "-k", "test_scores_may_grow"),
    ),
    Mutation(
        what="simt does not rescale sums where scores grow",
        file="cuda/simt.cuh",
        old="if (factor == 1) continue;",
        new="continue;",
        driver="attend",
        tests=(KERNELS, "-k", "test_scores_may_grow"),
    ),
    Mutation(
        what="the reference follows the scores too late",
        file="cuda/softmax.cuh",
        old="kSlack = 8;",
        new="kSlack = 200;",
        driver="attend",
        tests=(KERNELS, "-k", "test_scores_may_grow"),
    ),
    Mutation(
        what="all splits have the share of the first",
        file="cuda/combine.cuh",
        old="load_shared<A>(shares + i)",
        new="load_shared<A>(shares)",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_number_of_splits_equals_float64"),
    ),
    Mutation(
        what="weights are relative to another reference",
        file="cuda/weights.cuh",
        old="(score[i] - lse) * A(kLog2E)",
        new="score[i] * A(kLog2E) - lse",
        driver="attend",
        tests=(KERNELS, "-k", "test_weights_equal"),
    ),
    Mutation(
        what="without rows no block is launched",
        file="cuda/launch.cu",
        old="plan.splits = std::max(divide_up(rows, std::max(plan.split_rows, 1)), 1);",
        new="plan.splits = divide_up(rows, std::max(plan.split_rows, 1));",
        driver="attend",
        tests=(KERNELS, "-k", "test_no_rows_give_zero"),
    ),
    Mutation(
        what="a query that sees nothing is divided by zero",
        file="cuda/softmax.cuh",
        old="return total == 0 ? A(0) : 1 / total;",
        new="return 1 / total;",
        driver="attend",
        tests=(KERNELS, "-k", "test_any_number_of_splits_equals_float64"),
    ),
    Mutation(
        what="what the warps found is merged before it is there",
        file="cuda/candidates.cuh",
        old="store_shared(warps + warp_id(), value);\n  sync_threads();\n",
        new="store_shared(warps + warp_id(), value);\n",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_sums_equal_float64"),
    ),
    Mutation(
        what="the sums of the warps are written over maxima that are still read",
        file="cuda/candidates.cuh",
        old="  sync_threads();\n  return value;\n",
        new="  return value;\n",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_sanitizers_find_nothing and thread and ascending"),
    ),
    Mutation(
        what="differences between infinities are formed",
        file="cuda/candidates.cuh",
        old="isfinite(greatest) ? greatest * A(kLog2E) : A(0)",
        new="greatest * A(kLog2E)",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_sums_of_rows"),
    ),
    Mutation(
        what="of equal candidates the higher comes first",
        file="cuda/candidates.cuh",
        old="value == other.value && index < other.index",
        new="value == other.value && index > other.index",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_candidates_have_the_bits"),
    ),
    Mutation(
        what="a candidate may be NaN",
        file="cuda/candidates.cuh",
        old="value == value ? value : minus_infinity<A>()",
        new="value",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_nan_and_banned_words"),
    ),
    Mutation(
        what="candidates are added past the end of the pool",
        file="cuda/candidates.cuh",
        old="count_ + added > k_ + kSearchThreads",
        new="count_ + added > k_ + 2 * kSearchThreads",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_words_in_order"),
    ),
    Mutation(
        what="the warps count into numbers that others still read",
        file="cuda/candidates.cuh",
        old="    count_ += added;\n    sync_threads();\n",
        new="    count_ += added;\n",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_sanitizers_find_nothing and thread and ascending"),
    ),
    Mutation(
        what="candidates move to their ranks while others are still compared",
        file="cuda/candidates.cuh",
        old="rank[i] += other.before(mine[i]);\n    }\n    sync_threads();\n",
        new="rank[i] += other.before(mine[i]);\n    }\n",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_candidates_have_the_bits"),
    ),
    Mutation(
        what="a range counts its words from the start of its row",
        file="cuda/candidates.cuh",
        old="static_cast<int>(params.beam) * vocabulary + first;",
        new="static_cast<int>(params.beam) * vocabulary;",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_candidates_have_the_bits"),
    ),
    Mutation(
        what="the last word of a range is left out",
        file="cuda/candidates.cuh",
        old="found[i] = at < count ? candidate(at)",
        new="found[i] = at < count - 1 ? candidate(at)",
        driver="candidates",
        tests=(CANDIDATES, "-k", "test_candidates_have_the_bits"),
    ),
    Mutation(
        what="the bias is that of the tile before",
        file="cuda/expanded_query.cuh",
        old="biases + tile * kTile + row",
        new="biases + (tile > 0 ? tile - 1 : 0) * kTile + row",
        driver="attend",
        tests=(KERNELS, "-k", "test_tensor_cores_add_a_bias"),
    ),
    Mutation(
        what="all queries have the bias of the first head",
        file="cuda/rows.cuh",
        old="head_of(query) * rows.bias_head",
        new="head_of(0) * rows.bias_head",
        driver="attend",
        tests=(KERNELS, "-k", "test_simt_adds_a_bias"),
    ),
    Mutation(
        what="simt shows every row to every beam",
        file="cuda/simt.cuh",
        old="      if (!there || !(storage_.seen.by_line(line_, first + S::row(i)) & 1)) {",
        new="      if (!there) {",
        driver="attend",
        tests=(KERNELS, "-k", "test_simt_adds_a_bias"),
    ),
    Mutation(
        what="a repair forgets the bias",
        file="cuda/repair.cuh",
        old="biases == nullptr ? A(0) : load_global<A>(biases + row)",
        new="biases == biases ? A(0) : load_global<A>(biases + row)",
        driver="attend",
        tests=(KERNELS, "-k", "count_as_not_there and biased"),
    ),
    Mutation(
        what="weights of a query whose biases are all -inf are NaN",
        file="cuda/weights.cuh",
        old="finite_or_zero(load_global<A>(static_cast<const A*>(params.lse) + position))",
        new="load_global<A>(static_cast<const A*>(params.lse) + position)",
        driver="attend",
        tests=(KERNELS, "-k", "test_weights_equal"),
    ),
    Mutation(
        what="a repaired context has the rows of the first beam",
        file="cuda/repair.cuh",
        old="work.beam_of(0) * rows.visible_beam",
        new="0 * rows.visible_beam",
        driver="attend",
        tests=(KERNELS, "-k", "count_as_not_there"),
    ),
    Mutation(
        what="the rows that are added are those of the chunk after",
        file="cuda/repair.cuh",
        old="    sync_threads();  // what the sums are made of may be overwritten\n",
        new="",
        driver="attend",
        tests=(KERNELS, "-k", "chunk"),
    ),
    Mutation(
        what="NaN that a beam does not see stays",
        file="cuda/launch.cu",
        old="params.rows.visible && params.rows.visible_beam != 0",
        new="params.rows.visible && params.rows.visible_beam < 0",
        driver="attend",
        tests=(KERNELS, "-k", "count_as_not_there"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_planted_bug_is_caught(mutation: Mutation) -> None:
    require()
    assert is_caught(mutation), f"survived: {mutation.what}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_bug_can_be_planted(mutation: Mutation, tmp_path: Path) -> None:
    plant(mutation, tmp_path)


# ---- The machinery itself -----------------------------------------------------------------------

# Two changes of a file that the cheapest tests need.
HARMLESS = Mutation(
    what="nothing is wrong",
    file="cuda/primitives.cuh",
    old="constexpr int kWarpSize = 32;",
    new="constexpr int kWarpSize = 30 + 2;",
    driver="primitives",
    tests=("tests/csrc/test_emulator.py", "-k", "test_threads_know_where_they_are"),
)
BROKEN = replace(HARMLESS, what="does not compile", new="constexpr int kWarpSize = ;")


@pytest.mark.slow
def test_a_change_that_does_no_harm_survives() -> None:
    require()
    assert not is_caught(HARMLESS)


@pytest.mark.slow
def test_a_change_that_does_not_compile_is_an_error() -> None:
    require()
    with pytest.raises(RuntimeError, match="does not compile"):
        is_caught(BROKEN)


def test_a_text_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected once in cuda/primitives.cuh, found 0 times"):
        plant(replace(HARMLESS, old="no such text"), tmp_path)
