// Scores of a tile of rows without tensor cores, for any dtype and width.
#pragma once

#include "rows.cuh"
#include "softmax.cuh"

namespace el_attention::cuda {

// A block of kThreads scores kTile rows for up to kQueries queries. Eight lanes share a row: each
// multiplies its part of the columns, and ends up with the score of one query.
template <typename T, int kVector>  // kVector neighbouring elements are loaded at once
struct Scores {
  using A = Accumulator<T>;
  static constexpr int kThreads = 256;
  static constexpr int kQueries = 8;
  static constexpr int kLanes = kQueries;
  static constexpr int kRowsAtOnce = kWarpSize / kLanes;
  static constexpr int kRowsPerLane = 2;
  static constexpr int kRowsPerWarp = kRowsAtOnce * kRowsPerLane;
  static constexpr int kTile = kThreads / kWarpSize * kRowsPerWarp;
  static constexpr int kStep = kLanes * kVector;  // columns of a step

  // Elements of `queries` in shared memory from one query to the next.
  EL_HOST_DEVICE static int query_stride(int64_t width) {
    return static_cast<int>(round_up(width, kStep));
  }

  // The query, within the block, whose scores this lane gets.
  EL_DEVICE static int query() { return lane_id() % kLanes; }

  // The i-th row, within the tile, whose score this lane gets.
  EL_DEVICE static int row(int i) {
    return warp_id() * kRowsPerWarp + i * kRowsAtOnce + lane_id() / kLanes;
  }

  // Copies the queries of `work` to shared memory, zeros beyond the width; a barrier must follow.
  EL_DEVICE static void load_queries(A* queries, const Query& query, int width, const Work& work) {
    const int stride = query_stride(width);
    for (int i = thread_id(); i < work.queries * stride; i += kThreads) {
      const int q = i / stride, column = i % stride;
      A x = 0;
      if (column < width) {
        x = convert<A>(load_global<T>(work.begin_of<T>(q, query) + column));
      }
      store_shared(queries + q * stride + column, x);
    }
  }

  // Dot products of this lane's query with the rows of its eight lanes. A null key scores 0.
  EL_DEVICE static void multiply(A (&score)[kRowsPerLane], const A* queries, int query_count,
                                 const T* const (&keys)[kRowsPerLane], int width) {
    const int stride = query_stride(width), lane = lane_id() % kLanes;
    A sums[kRowsPerLane][kQueries] = {};
    for (int first = 0; first < width; first += kStep) {
      const int column = first + lane * kVector;
      A key[kRowsPerLane][kVector];
#pragma unroll
      for (int i = 0; i < kRowsPerLane; ++i) {
        load(key[i], keys[i] != nullptr && column < width ? keys[i] + column : nullptr);
      }
#pragma unroll
      for (int q = 0; q < kQueries; ++q) {
        if (q >= query_count) break;
        const auto query = load_shared<Part>(queries + q * stride + column);
#pragma unroll
        for (int i = 0; i < kRowsPerLane; ++i) {
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            sums[i][q] = fma(query.data[e], key[i][e], sums[i][q]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsPerLane; ++i) score[i] = sum_by_lane(sums[i]);
  }

  // Reads kVector elements; zeros from a null address.
  EL_DEVICE static void load(A (&x)[kVector], const T* address) {
    Vector vector = {};
    if (address) vector = load_global<Vector>(address);
#pragma unroll
    for (int e = 0; e < kVector; ++e) x[e] = convert<A>(vector.data[e]);
  }

  // kVector numbers of shared memory: 16 bytes, so that neighbouring lanes read without conflicts.
  struct alignas(kVector * sizeof(A)) Part {
    A data[kVector];
  };
  static_assert(sizeof(Part) <= 16, "a part is read by one access");

 private:
  struct alignas(kVector * sizeof(T)) Vector {
    T data[kVector];
  };

  // Lane j of eight gets the sum of values[j] over the eight.
  EL_DEVICE static A sum_by_lane(A (&values)[kQueries]) {
#pragma unroll
    for (int half = kQueries / 2; half > 0; half /= 2) {
      const bool upper = lane_id() & half;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const A sent = upper ? values[i] : values[i + half];
        const A kept = upper ? values[i + half] : values[i];
        values[i] = kept + shuffle_xor(sent, half);
      }
    }
    return values[0];
  }
};

}  // namespace el_attention::cuda
