// Attention weights from the lse that attention returned: for alignments, not for attending.
#pragma once

#include "scores.cuh"

namespace el_attention::cuda {

template <typename T, int kVector>
struct WeightsStorage {
  using S = Scores<T, kVector>;

  Column<T, Role::kKey> keys;
  Seen seen;
  typename S::A* queries;  // [queries of the block][query_stride]

  EL_HOST_DEVICE WeightsStorage(SharedArena& arena, const Sizes& sizes, const Rows& rows,
                                int queries)
      : keys{arena.take<const T*>(kMaxSegments, "keys")},
        queries(arena.take<typename S::A>(queries * S::query_stride(sizes.width), "queries")) {
    seen.lines = Seen::lines_of(sizes, rows, queries);
    seen.stride = S::kTile / Seen::kRowsPerWord;
    seen.words = arena.take<uint32_t>((1 + seen.lines) * seen.stride, "seen");
  }
};

// Grid as in `simt`; each block takes one tile of rows.
template <typename T, int kVector>
EL_KERNEL(256, 1)
weights(const EL_GRID_CONSTANT WeightsParams params, const int queries_per_block) {
  using S = Scores<T, kVector>;
  using A = typename S::A;
  const Work work = work_of_block(params.sizes, S::kTile, queries_per_block);
  SharedArena arena = SharedArena::of_block();
  const WeightsStorage<T, kVector> storage(arena, params.sizes, params.rows, queries_per_block);
  const bool located = storage.keys.locate(params.rows, work, params.report);
  S::load_queries(storage.queries, params.query, static_cast<int>(params.sizes.width), work);
  // Where a column is not there, no row is seen and all weights are NaN.
  const bool valid = storage.seen.fill(params.rows, work, located);
  const A unseen = valid ? A(0) : A(NAN);

  const T* keys[S::kRowsPerLane];
#pragma unroll
  for (int i = 0; i < S::kRowsPerLane; ++i) {
    keys[i] = nullptr;
    if (storage.seen.by_any(S::row(i)) & 1) {
      keys[i] = storage.keys.find(params.rows, work.first_row + S::row(i));
    }
  }
  A score[S::kRowsPerLane];
  S::multiply(score, storage.queries, work.queries, keys, static_cast<int>(params.sizes.width));
  if (S::query() >= work.queries) return;

  const int64_t position = work.position_of(S::query(), params.sizes);
  const int line = storage.seen.line_of(S::query(), params.rows, work);
  const A lse = finite_or_zero(load_global<A>(static_cast<const A*>(params.lse) + position));
  const A* biases = work.biases_of<A>(S::query(), params.rows);
#pragma unroll
  for (int i = 0; i < S::kRowsPerLane; ++i) {
    if (S::row(i) >= work.rows) continue;
    const bool sees = valid && storage.seen.by_line(line, S::row(i)) & 1;
    if (sees && biases != nullptr) score[i] += load_global<A>(biases + S::row(i));
    A* weight = static_cast<A*>(params.weights) + position * params.sizes.rows + work.first_row;
    store_global(weight + S::row(i), sees ? fast_exp2((score[i] - lse) * A(kLog2E)) : unseen);
  }
}

}  // namespace el_attention::cuda
