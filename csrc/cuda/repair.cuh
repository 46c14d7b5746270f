// Contexts that rows which their beam does not see have made NaN: 0 x NaN is not 0.
#pragma once

#include "rows.cuh"
#include "softmax.cuh"

namespace el_attention::cuda {

constexpr int kRepairThreads = 256;
constexpr int kRepairColumns = 8;  // of the context, summed up by a thread
constexpr int kMaxRepairWidth = kRepairThreads * kRepairColumns;

template <typename T>
struct RepairStorage {
  Column<T, Role::kKey> keys;
  Column<T, Role::kValue> values;
  const T** value_rows;     // [kRepairThreads], null where the query sees no row
  Accumulator<T>* weights;  // [kRepairThreads]

  EL_HOST_DEVICE explicit RepairStorage(SharedArena& arena)
      : keys{arena.take<const T*>(kMaxSegments, "keys")},
        values{arena.take<const T*>(kMaxSegments, "values")},
        value_rows(arena.take<const T*>(kRepairThreads, "value rows")),
        weights(arena.take<Accumulator<T>>(kRepairThreads, "weights")) {}
};

// Attends again, by the lse that is there, with the rows that the query sees alone. This is rare,
// so that the kernels before it share what they read unless it happens, and this one need not be
// fast. One block for each query, most of which find no NaN and are done.
template <typename T>
EL_KERNEL(kRepairThreads, 1)
repair(const EL_GRID_CONSTANT AttendParams params) {
  using A = Accumulator<T>;
  const Sizes& sizes = params.sizes;
  const Rows& rows = params.rows;
  const int count = static_cast<int>(sizes.rows), width = static_cast<int>(sizes.width);
  const int value_width = static_cast<int>(sizes.value_width);
  const Work work = work_of_block(sizes, count, 1);
  const int64_t position = work.position_of(0, sizes);
  T* context = static_cast<T*>(params.context) + position * value_width;

  bool poisoned = false;
  for (int column = thread_id(); column < value_width; column += kRepairThreads) {
    const A x = convert<A>(load_written<T>(context + column));
    poisoned |= x != x;
  }
  if (!sync_threads_or(poisoned)) return;

  SharedArena arena = SharedArena::of_block();
  const RepairStorage<T> storage(arena);
  const bool located = storage.keys.locate(rows, work, params.report);
  storage.values.locate(rows, work, params.report);
  if (sync_threads_or(!located)) return;  // a column that is not there: the context stays NaN
  const T* query = work.begin_of<T>(0, params.query);
  const bool* visible =
      rows.visible + work.group * rows.visible_group + work.beam_of(0) * rows.visible_beam;
  const A lse = finite_or_zero(load_written<A>(static_cast<const A*>(params.lse) + position));
  const A* biases = work.biases_of<A>(0, rows);
  A sums[kRepairColumns] = {};
  for (int first = 0; first < count; first += kRepairThreads) {
    sync_threads();  // what the sums are made of may be overwritten
    const int row = first + thread_id();
    const T* value = nullptr;
    if (row < count && load_global<bool>(visible + row)) {
      const T* key = storage.keys.find(rows, row);
      A score = biases == nullptr ? A(0) : load_global<A>(biases + row);
      for (int i = 0; i < width; ++i) {
        score =
            fma(convert<A>(load_global<T>(query + i)), convert<A>(load_global<T>(key + i)), score);
      }
      value = storage.values.find(rows, row);
      store_shared(storage.weights + thread_id(), fast_exp2((score - lse) * A(kLog2E)));
    }
    store_shared(storage.value_rows + thread_id(), value);
    sync_threads();
    for (int i = 0; i < smaller(kRepairThreads, count - first); ++i) {
      const auto seen = load_shared<const T*>(storage.value_rows + i);
      if (seen == nullptr) continue;
      const A weight = load_shared<A>(storage.weights + i);
#pragma unroll
      for (int c = 0; c < kRepairColumns; ++c) {
        const int column = c * kRepairThreads + thread_id();
        if (column >= value_width) break;
        sums[c] = fma(weight, convert<A>(load_global<T>(seen + column)), sums[c]);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kRepairColumns; ++c) {
    const int column = c * kRepairThreads + thread_id();
    if (column < value_width) store_global(context + column, convert<T>(sums[c]));
  }
}

}  // namespace el_attention::cuda
