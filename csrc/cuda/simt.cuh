// Attention without tensor cores: any dtype, any width up to kMaxValueWidth, one or many kv heads.
//
// A block takes up to eight queries that share a kv head and a range of rows; it reads each key
// and each value once for all of them.
#pragma once

#include "scores.cuh"

namespace el_attention::cuda {

template <typename T, int kVector>
struct SimtStorage {
  using S = Scores<T, kVector>;
  using A = typename S::A;
  static constexpr int kWarps = S::kThreads / kWarpSize;
  // Columns of the context that a thread sums up; all threads together reach the widest value.
  static constexpr int kColumns = 8;
  static constexpr int kMaxValueWidth = S::kThreads * kColumns;

  Work* work;  // here and not in registers, which are scarce while rows are read
  Column<T, Role::kKey> keys;
  Column<T, Role::kValue> values;
  Seen seen;
  A* queries;            // [queries of the block][query_stride]
  const T** value_rows;  // [kTile], the values of the tile's rows; null where nobody looks
  A* weights;            // [kTile][kQueries]
  A* warp_results;       // [kWarps][kQueries], maxima or totals of the warps
  A* factors;            // [kQueries], on the sums before this tile
  A* sums;  // [kMaxValueWidth], contexts of one query by the threads that share columns

  EL_HOST_DEVICE SimtStorage(SharedArena& arena, const Sizes& sizes, const Rows& rows, int queries,
                             int split_rows)
      : work(arena.take<Work>(1, "work")),
        keys{arena.take<const T*>(kMaxSegments, "keys")},
        values{arena.take<const T*>(kMaxSegments, "values")},
        queries(arena.take<A>(queries * S::query_stride(sizes.width), "queries")),
        value_rows(arena.take<const T*>(S::kTile, "value rows")),
        weights(arena.take<A>(S::kTile * S::kQueries, "weights")),
        warp_results(arena.take<A>(kWarps * S::kQueries, "warp results")),
        factors(arena.take<A>(S::kQueries, "factors")),
        sums(arena.take<A>(kMaxValueWidth, "sums")) {
    seen.lines = Seen::lines_of(sizes, rows, queries);
    seen.stride = round_up(split_rows, S::kTile) / Seen::kRowsPerWord;
    seen.words = arena.take<uint32_t>((1 + seen.lines) * seen.stride, "seen");
  }
};

template <typename T, int kVector>
class Simt {
 public:
  using S = Scores<T, kVector>;
  using Storage = SimtStorage<T, kVector>;
  using A = typename S::A;

  EL_DEVICE Simt(const AttendParams& params, const Split& split, const Storage& storage)
      : params_(params), split_(split), storage_(storage) {
    // As many neighbouring threads share a row of values as are needed, the others take other rows.
    const int vectors = static_cast<int>(divide_up(params.sizes.value_width, kVector));
    while (threads_per_row_ < vectors && threads_per_row_ < S::kThreads) threads_per_row_ *= 2;
  }

  EL_DEVICE void run(const Work& work) {
    if (thread_id() == 0) work.put(storage_.work);
    const bool located = storage_.keys.locate(params_.rows, work, params_.report);
    storage_.values.locate(params_.rows, work, params_.report);
    S::load_queries(storage_.queries, params_.query, static_cast<int>(params_.sizes.width), work);
    // Where a column is not there, contexts and lse become NaN.
    if (!storage_.seen.fill(params_.rows, work, located)) softmax_.total = A(NAN);
    queries_ = work.queries;
    line_ = storage_.seen.line_of(S::query(), params_.rows, work);
    attend(work.rows);
    finish(Work::get(storage_.work));
  }

 private:
  EL_DEVICE void attend(int rows) {
    const int tiles = divide_up(rows, S::kTile);
    for (int tile = next(0, tiles); tile < tiles; tile = next(tile + 1, tiles)) {
      weigh(tile * S::kTile);
      add_values();
    }
  }

  EL_DEVICE int next(int tile, int tiles) const {
    return storage_.seen.template next<S::kTile>(tile, tiles);
  }

  // The key or value of a row of `work`; null where nobody looks at it.
  template <Role kRole>
  EL_DEVICE const T* find(const Column<T, kRole>& column, int row) const {
    if (!(storage_.seen.by_any(row) & 1)) return nullptr;
    return column.find(params_.rows, first_row(split_.rows) + row);
  }

  // Scores of a tile, and from them the weights of its rows.
  EL_DEVICE void weigh(int first) {
    const T* keys[S::kRowsPerLane];
#pragma unroll
    for (int i = 0; i < S::kRowsPerLane; ++i) keys[i] = find(storage_.keys, first + S::row(i));
    A score[S::kRowsPerLane];
    S::multiply(score, storage_.queries, queries_, keys, static_cast<int>(params_.sizes.width));

    A greatest = minus_infinity<A>();
    const bool there = S::query() < queries_;
    const A* biases = nullptr;  // found anew for each tile: registers are scarce
    if (params_.rows.bias != nullptr && there) {
      const Work work = Work::get(storage_.work);
      biases = work.biases_of<A>(S::query(), params_.rows);
    }
#pragma unroll
    for (int i = 0; i < S::kRowsPerLane; ++i) {
      if (!there || !(storage_.seen.by_line(line_, first + S::row(i)) & 1)) {
        score[i] = minus_infinity<A>();
      } else if (biases != nullptr) {
        score[i] += load_global<A>(biases + first + S::row(i));
      }
      greatest = fmax(greatest, score[i]);
    }
    // Its barrier also ends the use of the tile before: what add_values reads may be overwritten.
    greatest = reduce_over_block(greatest, [](A x, A y) { return fmax(x, y); });
    const A factor = softmax_.raise(greatest);
    softmax_.total *= factor;
    if (thread_id() < S::kQueries) store_shared(storage_.factors + thread_id(), factor);
#pragma unroll
    for (int i = 0; i < S::kRowsPerLane; ++i) {
      const A weight = softmax_.weight(score[i]);
      softmax_.total += weight;
      store_shared(storage_.weights + S::row(i) * S::kQueries + S::query(), weight);
      if (S::query() == 0) {
        store_shared(storage_.value_rows + S::row(i), find(storage_.values, first + S::row(i)));
      }
    }
    sync_threads();
  }

  // Unites the values of the lanes that have the same query, in all of them; has a barrier.
  template <typename Reduce>
  EL_DEVICE A reduce_over_block(A value, Reduce reduce) const {
#pragma unroll
    for (int mask = S::kLanes; mask < kWarpSize; mask *= 2) {
      value = reduce(value, shuffle_xor(value, mask));
    }
    if (lane_id() < S::kLanes) {
      store_shared(storage_.warp_results + warp_id() * S::kQueries + S::query(), value);
    }
    sync_threads();
    value = load_shared<A>(storage_.warp_results + S::query());
#pragma unroll
    for (int warp = 1; warp < Storage::kWarps; ++warp) {
      value =
          reduce(value, load_shared<A>(storage_.warp_results + warp * S::kQueries + S::query()));
    }
    return value;
  }

  EL_DEVICE int column_of(int step) const {
    return (step * threads_per_row_ + thread_id() % threads_per_row_) * kVector;
  }

  EL_DEVICE void add_values() {
#pragma unroll
    for (int q = 0; q < S::kQueries; ++q) {
      const A factor = load_shared<A>(storage_.factors + q);
      if (factor == 1) continue;
#pragma unroll
      for (int c = 0; c < Storage::kColumns; ++c) sums_[q][c] *= factor;
    }
    const int rows_at_once = S::kThreads / threads_per_row_;
#pragma unroll 2
    for (int row = thread_id() / threads_per_row_; row < S::kTile; row += rows_at_once) {
      const auto value = load_shared<const T*>(storage_.value_rows + row);
      if (value == nullptr) continue;
      const Weights weights = load_weights(storage_.weights + row * S::kQueries);
#pragma unroll
      for (int step = 0; step < Storage::kColumns / kVector; ++step) {
        const int column = column_of(step);
        if (column >= params_.sizes.value_width) break;
        A x[kVector];
        S::load(x, value + column);
#pragma unroll
        for (int q = 0; q < S::kQueries; ++q) {
          if (q >= queries_) break;
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            A& sum = sums_[q][step * kVector + e];
            sum = fma(weights.data[q], x[e], sum);
          }
        }
      }
    }
  }

  struct Weights {
    A data[S::kQueries];
  };
  EL_DEVICE static Weights load_weights(const A* address) {
    struct alignas(16) Part {
      A data[16 / sizeof(A)];
    };
    Weights weights;
#pragma unroll
    for (int i = 0; i < S::kQueries; i += 16 / sizeof(A)) {
      const auto part = load_shared<Part>(address + i);
#pragma unroll
      for (int e = 0; e < int(16 / sizeof(A)); ++e) weights.data[i + e] = part.data[e];
    }
    return weights;
  }

  EL_DEVICE void finish(const Work& work) {
    softmax_.total = reduce_over_block(softmax_.total, [](A x, A y) { return x + y; });
    const bool whole = split_.count == 1;
    const int64_t positions = params_.sizes.groups * params_.sizes.beam * params_.sizes.heads;
    if (thread_id() < work.queries) {
      const int64_t at = work.position_of(thread_id(), params_.sizes);
      A* lse = whole ? static_cast<A*>(params_.lse)
                     : static_cast<A*>(split_.lse) + block_y() * positions;
      store_global(lse + at, softmax_.lse());
      store_shared(storage_.factors + thread_id(), softmax_.norm());
    }
    const int width = static_cast<int>(params_.sizes.value_width);
#pragma unroll
    for (int q = 0; q < S::kQueries; ++q) {
      if (q >= work.queries) break;
      sync_threads();
      gather_sums(sums_[q]);
      sync_threads();
      const A norm = load_shared<A>(storage_.factors + q);
      const int64_t at = work.position_of(q, params_.sizes) * width;
      for (int column = thread_id(); column < width; column += S::kThreads) {
        const A mean = norm * sum_of_column(column);
        if (whole) {
          store_global(static_cast<T*>(params_.context) + at + column, convert<T>(mean));
        } else {
          store_global(
              static_cast<A*>(split_.context) + block_y() * positions * width + at + column, mean);
        }
      }
    }
  }

  // Lines of storage_.sums: one for each warp, or for all warps that share rows.
  EL_DEVICE int sum_stride() const { return threads_per_row_ * Storage::kColumns; }
  EL_DEVICE int sum_lines() const {
    return smaller(Storage::kWarps, S::kThreads / threads_per_row_);
  }

  // Writes one query's sums to shared memory, those of a warp merged.
  EL_DEVICE void gather_sums(A (&sums)[Storage::kColumns]) {
    for (int mask = threads_per_row_; mask < kWarpSize; mask *= 2) {
#pragma unroll
      for (int c = 0; c < Storage::kColumns; ++c) sums[c] += shuffle_xor(sums[c], mask);
    }
    if (lane_id() >= threads_per_row_) return;
    const int line = warp_id() * sum_lines() / Storage::kWarps;
#pragma unroll
    for (int c = 0; c < Storage::kColumns; c += kVector) {
      typename S::Part part;
#pragma unroll
      for (int e = 0; e < kVector; ++e) part.data[e] = sums[c + e];
      store_shared(storage_.sums + line * sum_stride() + column_of(c / kVector), part);
    }
  }

  EL_DEVICE A sum_of_column(int column) const {
    A sum = 0;
    for (int line = 0; line < sum_lines(); ++line) {
      sum += load_shared<A>(storage_.sums + line * sum_stride() + column);
    }
    return sum;
  }

  const AttendParams& params_;
  const Split& split_;
  const Storage& storage_;
  int threads_per_row_ = 1;
  int queries_;  // of the block
  int line_;     // of `seen`
  Softmax<A> softmax_ =
      Softmax<A>::empty();  // of query S::query(); `total` counts this lane's rows only
  A sums_[S::kQueries][Storage::kColumns] = {};
};

// Grid: [sentences x kv_heads x tiles of `queries_per_block` queries, ranges of rows].
template <typename T, int kVector>
EL_KERNEL(256, sizeof(T) == 8 ? 1 : 2)
simt(const EL_GRID_CONSTANT AttendParams params, const EL_GRID_CONSTANT Split split,
     const int queries_per_block) {
  const Work work = work_of_block(params.sizes, split.rows, queries_per_block);
  SharedArena arena = SharedArena::of_block();
  const SimtStorage<T, kVector> storage(arena, params.sizes, params.rows, queries_per_block,
                                        split.rows);
  Simt<T, kVector>(params, split, storage).run(work);
}

}  // namespace el_attention::cuda
