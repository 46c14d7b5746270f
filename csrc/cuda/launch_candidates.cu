// Launches of the kernels of a search.
#include <algorithm>
#include <string>

#include "candidates.cuh"
#include "dispatch.h"
#include "launch.h"
#include "runtime.cuh"

namespace el_attention::cuda {
namespace {

constexpr int kLeastTokens = 2048;           // of a block, for which its list is a small price
constexpr int kBlocksPerMultiprocessor = 4;  // that keep memory busy

size_t wide_bytes(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : 4; }

// Calls `f` with a value of the accumulator's type.
template <typename F>
auto with_accumulator(Dtype dtype, F f) {
  return dtype == Dtype::kFloat64 ? f(double()) : f(float());
}

void check_blocks(int64_t rows, int64_t blocks_per_row) {
  const int64_t most = kMaxGridX / blocks_per_row;
  if (rows > most) {
    throw std::invalid_argument("logits: expected at most " + std::to_string(most) + " rows, got " +
                                std::to_string(rows));
  }
}

template <typename T>
void launch_sums(const LogSumExpParams& params, int ranges, Stream stream) {
  SharedArena arena = SharedArena::sizing();
  arena.take<Accumulator<T>>(kSearchWarps, "warps");
  launch({"log_sum_exp",
          {unsigned(params.rows * ranges), 1, 1},
          kSearchThreads,
          arena.bytes(),
          stream},
         log_sum_exp<T>, params, ranges);
}

template <typename A, typename K, typename... Arguments>
void launch_pool(const char* name, int64_t blocks, int64_t k, Stream stream, K kernel,
                 const Arguments&... arguments) {
  SharedArena arena = SharedArena::sizing();
  Pool<A>(arena, static_cast<int>(k));
  launch({name, {unsigned(blocks), 1, 1}, kSearchThreads, arena.bytes(), stream}, kernel,
         arguments...);
}

// Tokens of a block: few where there are few rows, so that the whole device works.
int tokens_of_block(const CandidateParams& params, const Device& device) {
  const int64_t blocks = int64_t{device.multiprocessors} * kBlocksPerMultiprocessor;
  const int64_t ranges = divide_up(blocks, params.sentences * params.beam);
  return static_cast<int>(std::max<int64_t>(divide_up(params.vocabulary, ranges), kLeastTokens));
}

// The lists of a sentence.
int64_t lists_of(const CandidateParams& params, const Device& device) {
  return params.beam * divide_up(params.vocabulary, tokens_of_block(params, device));
}

}  // namespace

size_t log_sum_exp_scratch(const LogSumExpParams& params, Dtype dtype) {
  const int64_t ranges = divide_up(params.vocabulary, kSumRange);
  if (ranges > kSumRange) {
    throw std::invalid_argument("logits: expected at most 2^24 tokens, got " +
                                std::to_string(params.vocabulary));
  }
  check_blocks(params.rows, ranges);
  return ranges == 1 ? 0 : params.rows * ranges * wide_bytes(dtype);
}

void launch_log_sum_exp(const LogSumExpParams& params, Dtype dtype, void* scratch, Stream stream) {
  const int ranges = divide_up(params.vocabulary, kSumRange);
  LogSumExpParams parts = params;
  if (ranges > 1) parts.lse = scratch;
  with_type(dtype, [&](auto zero) { launch_sums<decltype(zero)>(parts, ranges, stream); });
  if (ranges == 1) return;
  const LogSumExpParams whole{scratch, ranges, ranges, params.rows, params.lse};
  with_accumulator(dtype, [&](auto zero) { launch_sums<decltype(zero)>(whole, 1, stream); });
}

size_t candidates_scratch(const CandidateParams& params, Dtype dtype, const Device& device) {
  const int64_t lists = lists_of(params, device);
  check_blocks(params.sentences * params.beam, lists / params.beam);
  return lists == 1 ? 0 : params.sentences * lists * params.k * (8 + wide_bytes(dtype));
}

void launch_candidates(const CandidateParams& params, Dtype dtype, const Device& device,
                       const Lists& best, void* scratch, Stream stream) {
  const int64_t count = lists_of(params, device), blocks = params.sentences * count;
  auto* index = static_cast<int64_t*>(scratch);
  const Lists lists = count == 1 ? best : Lists{index + blocks * params.k, index};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_pool<Accumulator<T>>("top_candidates", blocks, params.k, stream, top_candidates<T>,
                                params, lists, tokens_of_block(params, device));
  });
  if (count == 1) return;
  with_accumulator(dtype, [&](auto zero) {
    using A = decltype(zero);
    launch_pool<A>("merge_candidates", params.sentences, params.k, stream, merge_candidates<A>,
                   lists, best, static_cast<int>(count * params.k), static_cast<int>(params.k));
  });
}

}  // namespace el_attention::cuda
