#include <algorithm>
#include <stdexcept>

#include "combine.cuh"
#include "dispatch.h"
#include "expanded_query.cuh"
#include "launch.h"
#include "ngrams.cuh"
#include "repair.cuh"
#include "runtime.cuh"
#include "simt.cuh"
#include "weights.cuh"

namespace el_attention::cuda {
namespace {

constexpr int kGranularity = 64;         // rows of a range: whole tiles and words for all kernels
constexpr int kMaxSplits = 64;           // beyond, combining costs more than it gains
constexpr int kMaxSeenBytes = 4 * 1024;  // shared memory for the bits of the rows that are seen
constexpr int kRegisters = 64 * 1024;    // of a multiprocessor
constexpr size_t kSystemShared = 1024;   // shared memory that each block costs besides its own
constexpr int kMaxGridY = 65535;

// Elements that the kernels without tensor cores load at once, where they are aligned.
template <typename T>
constexpr int kVector = sizeof(T) == 8 ? 2 : 4;

bool aligned(const void* data, size_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

// Whether `count` elements from any key and value on can be loaded at once.
bool rows_aligned(const AttendParams& params, Dtype dtype, int count) {
  for (int i = 0; i < params.rows.segment_count; ++i) {
    const Segment& segment = params.rows.segments[i];
    const auto fits = [&](const void* data, const Strides& strides) {  // of 1 has no stride
      return aligned(data, count * bytes_of(dtype)) &&
             (segment.rows <= 1 || strides.row % count == 0) &&
             (segment.column_count <= 1 || strides.column % count == 0) &&
             (params.sizes.kv_heads <= 1 || strides.head % count == 0);
    };
    if (!fits(segment.keys, segment.key) || !fits(segment.values, segment.value)) return false;
  }
  return params.sizes.width % count == 0 && params.sizes.value_width % count == 0;
}

// Whether pairs of a query's elements can be loaded at once.
bool query_in_pairs(const AttendParams& params, Dtype dtype) {
  const auto& [sizes, rows, query, context, lse, report] = params;
  return aligned(query.data, 2 * bytes_of(dtype)) && sizes.width % 2 == 0 &&
         (sizes.groups <= 1 || query.group % 2 == 0) && (sizes.beam <= 1 || query.beam % 2 == 0) &&
         (sizes.heads <= 1 || query.head % 2 == 0);
}

bool values_are_keys(const AttendParams& params) {
  for (int i = 0; i < params.rows.segment_count; ++i) {
    const Segment& segment = params.rows.segments[i];
    if (segment.keys != segment.values || segment.key.row != segment.value.row ||
        segment.key.column != segment.value.column) {
      return false;
    }
  }
  return params.sizes.value_width == params.sizes.width;
}

template <typename Storage, typename... Arguments>
size_t shared_bytes(const Arguments&... arguments) {
  SharedArena arena = SharedArena::sizing();
  Storage(arena, arguments...);
  return arena.bytes();
}

// Calls `f` with a value of the warp shape of a plan.
template <typename F>
auto with_shape(ExpandedQueryShape shape, F f) {
  switch (shape) {
    case ExpandedQueryShape::kOneRowTile:
      return f(OneRowTile());
    case ExpandedQueryShape::kTwoRowTiles:
      return f(TwoRowTiles());
    case ExpandedQueryShape::kWideSlice:
      return f(WideSlice());
  }
  throw std::invalid_argument("shape: expected one of ExpandedQueryShape");
}

size_t expanded_query_shared(const AttendParams& params, const AttendPlan& plan) {
  return with_shape(plan.shape, [&](auto shape) {
    return shared_bytes<ExpandedQueryStorage<Half, decltype(shape)>>(params.sizes, params.rows,
                                                                     plan.grid, plan.split_rows);
  });
}

size_t simt_shared(const AttendParams& params, Dtype dtype, const AttendPlan& plan) {
  return with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto& [sizes, rows, query, context, lse, report] = params;
    return plan.vector == 1
               ? shared_bytes<SimtStorage<T, 1>>(sizes, rows, plan.queries, plan.split_rows)
               : shared_bytes<SimtStorage<T, kVector<T>>>(sizes, rows, plan.queries,
                                                          plan.split_rows);
  });
}

// ---- Splits -------------------------------------------------------------------------------------

// Cuts the rows so that the whole device works, and is done with its last blocks soon.
//   resident: blocks that the device runs at once; wanted: ranges to aim at, or 0.
void choose_splits(AttendPlan& plan, const AttendParams& params, int64_t resident, int wanted) {
  const int lines = Seen::lines_of(params.sizes, params.rows, plan.queries);
  const int most_rows = kMaxSeenBytes * 8 / (1 + lines) / kGranularity * kGranularity;
  const int rows = static_cast<int>(params.sizes.rows);
  const int fewest = std::max(divide_up(rows, most_rows), 1);
  const int most = std::max(fewest, std::min(divide_up(rows, kGranularity), kMaxSplits));
  const auto rows_of = [&](int splits) { return round_up(divide_up(rows, splits), kGranularity); };
  // Time in rows that a block reads: starting costs a block about 32 of them, and handing over a
  // context as much as reading a row for each of its queries.
  const auto cost = [&](int splits) {
    const int64_t rounds = divide_up(int64_t{plan.blocks} * splits, resident);
    return rounds * (rows_of(splits) + 32 + (splits > 1 ? plan.queries : 0));
  };
  int best = std::clamp(wanted, fewest, most);
  if (wanted == 0) {
    for (int splits = fewest; splits <= most; ++splits) {
      if (cost(splits) < cost(best)) best = splits;
    }
  }
  plan.split_rows = rows_of(best);
  plan.splits = std::max(divide_up(rows, std::max(plan.split_rows, 1)), 1);
}

size_t scratch_of(const AttendParams& params, Dtype dtype, int splits) {
  if (splits == 1) return 0;
  const Sizes& sizes = params.sizes;
  const size_t queries = sizes.groups * sizes.beam * sizes.heads;
  return splits * queries * (sizes.value_width + 1) * (dtype == Dtype::kFloat64 ? 8 : 4);
}

Split split_of(const AttendPlan& plan, const AttendParams& params, Dtype dtype, void* scratch) {
  const Sizes& sizes = params.sizes;
  const size_t queries = sizes.groups * sizes.beam * sizes.heads;
  const size_t bytes =
      plan.splits * queries * sizes.value_width * (dtype == Dtype::kFloat64 ? 8 : 4);
  return {plan.splits, plan.split_rows, scratch,
          plan.splits == 1 ? nullptr : static_cast<char*>(scratch) + bytes};
}

// ---- Plans --------------------------------------------------------------------------------------

// As many blocks on a multiprocessor as registers and shared memory allow.
int64_t blocks_at_once(const Device& device, int threads, int registers, size_t shared_bytes) {
  const int64_t by_registers = kRegisters / (threads * registers);
  const int64_t by_shared = device.shared_per_multiprocessor / (shared_bytes + kSystemShared);
  return std::max<int64_t>(std::min(by_registers, by_shared), 1);
}

ExpandedQueryShape shape_for(int queries, int64_t width) {
  if (width > OneRowTile::kMaxWidth) return ExpandedQueryShape::kWideSlice;
  if (width > TwoRowTiles::kMaxWidth || queries <= ExpandedQueryTiles::kMma) {
    return ExpandedQueryShape::kOneRowTile;
  }
  return ExpandedQueryShape::kTwoRowTiles;
}

AttendPlan plan_expanded_query(const AttendParams& params, const Device& device, int splits) {
  using Tiles = ExpandedQueryTiles;
  const int queries = queries_per_kv_head(params.sizes);
  AttendPlan plan{};
  plan.kernel = Kernel::kExpandedQuery;
  plan.shape = shape_for(queries, params.sizes.width);
  with_shape(plan.shape, [&](auto shape) {
    constexpr int kQueries = shape.kRowTiles * Tiles::kMma;
    plan.grid.slices = divide_up(static_cast<int>(params.sizes.width), shape.kSlice);
    plan.grid.row_groups = std::min(
        {divide_up(queries, kQueries), shape.kMaxWarps / plan.grid.slices, Tiles::kMaxRowGroups});
    plan.queries = plan.grid.row_groups * kQueries;
  });
  plan.threads = plan.grid.slices * plan.grid.row_groups * kWarpSize;
  plan.blocks = static_cast<int>(params.sizes.groups) * divide_up(queries, plan.queries);

  // As many tiles on their way, over all blocks of a multiprocessor, as shared memory allows.
  const int registers = plan.shape == ExpandedQueryShape::kTwoRowTiles ? 256 : 168;
  const int lines = Seen::lines_of(params.sizes, params.rows, plan.queries);
  int64_t resident = 1, most_ahead = 0;
  plan.grid.stages = 1;
  for (int stages = 2; stages <= Tiles::kMaxStages; ++stages) {
    AttendPlan next = plan;
    next.grid.stages = stages;
    next.split_rows = kMaxSeenBytes * 8 / (1 + lines);
    const size_t shared = expanded_query_shared(params, next);
    if (shared > device.shared_per_block) break;
    const int64_t blocks = blocks_at_once(device, plan.threads, registers, shared);
    if (blocks * (stages - 1) <= most_ahead) continue;
    most_ahead = blocks * (stages - 1);
    resident = blocks;
    plan.grid.stages = stages;
  }
  choose_splits(plan, params, resident * device.multiprocessors, splits);
  plan.shared_bytes = expanded_query_shared(params, plan);
  return plan;
}

AttendPlan plan_simt(const AttendParams& params, Dtype dtype, const Device& device, int splits) {
  AttendPlan plan{};
  plan.kernel = Kernel::kSimt;
  const int vector = with_type(dtype, [](auto zero) { return kVector<decltype(zero)>; });
  plan.vector = rows_aligned(params, dtype, vector) ? vector : 1;
  plan.threads = Scores<float, 1>::kThreads;
  const int queries = queries_per_kv_head(params.sizes);
  const int registers = dtype == Dtype::kFloat64 ? 255 : 128;
  for (int most = Scores<float, 1>::kQueries; most > 0; --most) {
    plan.queries = divide_up(queries, divide_up(queries, most));
    plan.blocks = static_cast<int>(params.sizes.groups * params.sizes.kv_heads) *
                  divide_up(queries, plan.queries);
    const int64_t resident = blocks_at_once(device, plan.threads, registers, 0);
    choose_splits(plan, params, resident * device.multiprocessors, splits);
    plan.shared_bytes = simt_shared(params, dtype, plan);
    if (plan.shared_bytes <= device.shared_per_block) break;
  }
  return plan;
}

std::string too_much_shared(const AttendPlan& plan, const Device& device) {
  if (plan.shared_bytes <= device.shared_per_block) return "";
  return "it takes " + std::to_string(plan.shared_bytes) + " bytes of shared memory, and sm_" +
         std::to_string(device.arch) + " gives " + std::to_string(device.shared_per_block);
}

std::string unsupported_sizes(const Sizes& sizes) {
  const int64_t queries = sizes.beam * sizes.heads;
  if (sizes.groups * queries > kMaxGridX || sizes.rows > kMaxGridX - kGranularity) {
    return "groups x beam x heads and rows must be below 2^31";
  }
  return "";
}

std::string unsupported_by_expanded_query(const AttendParams& params, Dtype dtype,
                                          const Device& device) {
  if (dtype != Dtype::kFloat16 && dtype != Dtype::kBFloat16) return "it takes 16-bit floats";
  if (device.arch < 75) return "it takes sm_75 or newer";
  if (dtype == Dtype::kBFloat16 && device.arch < 80) return "bfloat16 takes sm_80 or newer";
  if (params.sizes.kv_heads != 1) return "it takes one kv head";
  if (!values_are_keys(params)) return "it takes values that are the keys";
  if (params.sizes.width > WideSlice::kMaxWidth) {
    return "it takes a width up to " + std::to_string(WideSlice::kMaxWidth);
  }
  if (!rows_aligned(params, dtype, ExpandedQueryTiles::kChunk)) {
    return "it takes rows and strides aligned to 16 bytes";
  }
  if (!query_in_pairs(params, dtype)) return "it takes a query aligned to 4 bytes";
  return too_much_shared(plan_expanded_query(params, device, 0), device);
}

std::string unsupported_by_simt(const AttendParams& params, Dtype dtype, const Device& device) {
  constexpr int kMost = SimtStorage<float, 1>::kMaxValueWidth;
  if (params.sizes.value_width > kMost) {
    return "it takes values of a width up to " + std::to_string(kMost);
  }
  return too_much_shared(plan_simt(params, dtype, device, 0), device);
}

const char* name_of(Kernel kernel) {
  return kernel == Kernel::kExpandedQuery ? "expanded_query" : "simt";
}

// ---- Launches -----------------------------------------------------------------------------------

struct LaunchOf {
  const AttendPlan& plan;
  const AttendParams& params;
  const Split& split;
  Stream stream;

  template <typename K, typename... More>
  void operator()(K kernel, const More&... more) const {
    launch({name_of(plan.kernel),
            {unsigned(plan.blocks), unsigned(plan.splits), 1},
            plan.threads,
            plan.shared_bytes,
            stream},
           kernel, params, split, more...);
  }
};

template <typename T>
void launch_expanded_query(const LaunchOf& launch) {
  with_shape(launch.plan.shape,
             [&](auto shape) { launch(expanded_query<T, decltype(shape)>, launch.plan.grid); });
}

template <typename T>
void launch_simt(const LaunchOf& launch) {
  if (launch.plan.vector == 1) {
    launch(simt<T, 1>, launch.plan.queries);
  } else {
    launch(simt<T, kVector<T>>, launch.plan.queries);
  }
}

unsigned queries_of(const Sizes& sizes) {
  return static_cast<unsigned>(sizes.groups * sizes.beam * sizes.heads);
}

template <typename T>
void launch_combine(const AttendPlan& plan, const AttendParams& params, const Split& split,
                    Stream stream) {
  SharedArena arena = SharedArena::sizing();
  arena.take<Accumulator<T>>(plan.splits, "shares");
  launch({"combine", {queries_of(params.sizes), 1, 1}, kCombineThreads, arena.bytes(), stream},
         combine<T>, params, split);
}

template <typename T>
void launch_repair(const AttendParams& params, Stream stream) {
  static_assert(kMaxRepairWidth >= SimtStorage<T, 1>::kMaxValueWidth &&
                    kMaxRepairWidth >= WideSlice::kMaxWidth,
                "a context that a kernel leaves is repaired whole");
  launch({"repair",
          {queries_of(params.sizes), 1, 1},
          kRepairThreads,
          shared_bytes<RepairStorage<T>>(),
          stream},
         repair<T>, params);
}

}  // namespace

std::string unsupported(Kernel kernel, const AttendParams& params, Dtype dtype,
                        const Device& device) {
  const std::string sizes = unsupported_sizes(params.sizes);
  if (!sizes.empty()) return sizes;
  return kernel == Kernel::kExpandedQuery ? unsupported_by_expanded_query(params, dtype, device)
                                          : unsupported_by_simt(params, dtype, device);
}

AttendPlan plan_attend(Kernel kernel, const AttendParams& params, Dtype dtype, const Device& device,
                       int splits) {
  AttendPlan plan = kernel == Kernel::kExpandedQuery ? plan_expanded_query(params, device, splits)
                                                     : plan_simt(params, dtype, device, splits);
  plan.scratch_bytes = scratch_of(params, dtype, plan.splits);
  return plan;
}

AttendPlan plan_attend(const AttendParams& params, Dtype dtype, const Device& device) {
  std::string reasons;
  for (Kernel kernel : {Kernel::kExpandedQuery, Kernel::kSimt}) {
    const std::string reason = unsupported(kernel, params, dtype, device);
    if (reason.empty()) return plan_attend(kernel, params, dtype, device);
    reasons += std::string(reasons.empty() ? "" : "; ") + name_of(kernel) + ": " + reason;
  }
  throw std::invalid_argument("attend: no kernel can run this call (" + reasons + ")");
}

void launch_attend(const AttendPlan& plan, const AttendParams& params, Dtype dtype, void* scratch,
                   Stream stream) {
  const Split split = split_of(plan, params, dtype, scratch);
  const LaunchOf attend{plan, params, split, stream};
  if (plan.kernel == Kernel::kSimt) {
    with_type(dtype, [&](auto zero) { launch_simt<decltype(zero)>(attend); });
  } else if (dtype == Dtype::kFloat16) {
    launch_expanded_query<Half>(attend);
  } else {
    launch_expanded_query<BFloat16>(attend);
  }
  if (plan.splits > 1) {
    with_type(dtype,
              [&](auto zero) { launch_combine<decltype(zero)>(plan, params, split, stream); });
  }
  // Where all beams see the same rows, the others are not read.
  if (params.rows.visible && params.rows.visible_beam != 0) {
    with_type(dtype, [&](auto zero) { launch_repair<decltype(zero)>(params, stream); });
  }
}

void launch_weights(const WeightsParams& params, Dtype dtype, const Device& device, Stream stream) {
  const Sizes& sizes = params.sizes;
  if (sizes.rows == 0) return;
  const std::string reason = unsupported_sizes(sizes);
  if (!reason.empty()) throw std::invalid_argument("weights: " + reason);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    using S = Scores<T, 1>;
    const int all = queries_per_kv_head(sizes);
    int queries = 0;
    size_t bytes = 0;
    for (int most = S::kQueries; most > 0; --most) {
      queries = divide_up(all, divide_up(all, most));
      bytes = shared_bytes<WeightsStorage<T, 1>>(sizes, params.rows, queries);
      if (bytes <= device.shared_per_block) break;
    }
    if (bytes > device.shared_per_block) {
      throw std::invalid_argument("weights: width " + std::to_string(sizes.width) +
                                  " takes more shared memory than sm_" +
                                  std::to_string(device.arch) + " gives");
    }
    const unsigned tiles = divide_up(sizes.rows, S::kTile);
    if (tiles > kMaxGridY) {
      throw std::invalid_argument("weights: expected at most " +
                                  std::to_string(kMaxGridY * S::kTile) + " rows, got " +
                                  std::to_string(sizes.rows));
    }
    const unsigned blocks = sizes.groups * sizes.kv_heads * divide_up(all, queries);
    launch({"weights", {blocks, tiles, 1}, S::kThreads, bytes, stream}, weights<T, 1>, params,
           queries);
  });
}

void launch_block_ngrams(const NGramParams& params, Dtype dtype, Stream stream) {
  const Launch shape{"block_ngrams", {unsigned(params.sequences), 1, 1}, kNGramThreads, 0, stream};
  switch (dtype) {
    case Dtype::kFloat64:
      return launch(shape, block_ngrams<double, uint64_t>, params, uint64_t{0xfff0} << 48);
    case Dtype::kFloat32:
      return launch(shape, block_ngrams<float, uint32_t>, params, uint32_t{0xff80} << 16);
    case Dtype::kFloat16:
      return launch(shape, block_ngrams<Half, uint16_t>, params, uint16_t{0xfc00});
    case Dtype::kBFloat16:
      return launch(shape, block_ngrams<BFloat16, uint16_t>, params, uint16_t{0xff80});
  }
}

}  // namespace el_attention::cuda
