// Forbids tokens that would complete an n-gram for the second time.
#pragma once

#include "rows.cuh"

namespace el_attention::cuda {

constexpr int kNGramThreads = 128;

// One block for each sequence; each thread compares n-grams with the last tokens.
template <typename T, typename Bits>  // Bits: an unsigned integer of the size of T
EL_KERNEL(kNGramThreads, 1)
    block_ngrams(const EL_GRID_CONSTANT NGramParams params, const Bits minus_infinity) {
  const int64_t sequence = block_x();
  if (params.forced && load_global<bool>(params.forced + sequence)) return;
  const int64_t* tokens = params.tokens + sequence * params.tokens_row;
  const int64_t* last = tokens + params.length - (params.size - 1);
  T* lprobs = static_cast<T*>(params.lprobs) + sequence * params.lprobs_row;
  // The first token does not count.
  for (int64_t first = 1 + thread_id(); first + params.size <= params.length;
       first += kNGramThreads) {
    int64_t i = 0;
    while (i < params.size - 1 &&
           load_global<int64_t>(tokens + first + i) == load_global<int64_t>(last + i)) {
      ++i;
    }
    if (i < params.size - 1) continue;
    const auto token = load_global<int64_t>(tokens + first + i);
    if (token < 0 || token >= params.vocabulary) {
      report_value(params.report, token);
      continue;
    }
    // Another thread may write the same number.
    store_global_relaxed(lprobs + token, minus_infinity);
  }
}

}  // namespace el_attention::cuda
