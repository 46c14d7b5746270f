// Unites the contexts that blocks found in different ranges of the rows.
#pragma once

#include "params.h"
#include "softmax.cuh"

namespace el_attention::cuda {

constexpr int kCombineThreads = 128;

// One block for each query; shared memory: Accumulator<T> [split.count]. In order, so that the
// result is the same every time.
template <typename T>
EL_KERNEL(kCombineThreads, 1)
combine(const EL_GRID_CONSTANT AttendParams params, const EL_GRID_CONSTANT Split split) {
  using A = Accumulator<T>;
  SharedArena arena = SharedArena::of_block();
  A* shares = arena.take<A>(split.count, "shares");
  const int64_t position = block_x();
  const int64_t positions = params.sizes.groups * params.sizes.beam * params.sizes.heads;
  const A* lse = static_cast<const A*>(split.lse) + position;

  auto softmax = Softmax<A>::empty();
  for (int i = 0; i < split.count; ++i) softmax.raise(load_written<A>(lse + i * positions));
  for (int i = 0; i < split.count; ++i) {
    const A weight = softmax.weight(load_written<A>(lse + i * positions));
    softmax.total += weight;
    if (thread_id() == 0) store_shared(shares + i, weight);
  }
  if (thread_id() == 0) store_global(static_cast<A*>(params.lse) + position, softmax.lse());
  sync_threads();

  const int64_t width = params.sizes.value_width;
  for (int64_t column = thread_id(); column < width; column += kCombineThreads) {
    const A* context = static_cast<const A*>(split.context) + position * width + column;
    A sum = 0;
    for (int i = 0; i < split.count; ++i) {
      sum = fma(load_shared<A>(shares + i), load_written<A>(context + i * positions * width), sum);
    }
    store_global(static_cast<T*>(params.context) + position * width + column,
                 convert<T>(sum * softmax.norm()));
  }
}

}  // namespace el_attention::cuda
