// A linear layer of few rows: dot products with the rows of the weight as they lie in memory.
//
// Bound by memory: the weight is streamed once, a group of its rows ahead.
#pragma once

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// T: of input, bias and output; W: of the weight, T or one that widens to it exactly.
template <typename T, typename W>
class FewRows {
 public:
  using A = Accumulate<T>;

  // Outputs x rows of a register tile: what 16 or 32 registers hold.
  static constexpr int64_t kOutputs = Vec<T>::size() * sizeof(A) == 64 ? 6 : 3;
  static constexpr int64_t kRows = 4;

  static int64_t scratch(const LinearParams& p, int64_t groups) {
    const int64_t rows = round_up(p.rows, kRows);
    return rows * (round_up(std::min(p.inputs, kDepth), kLine) + kept(p, groups) * kOutputs) +
           2 * kLine;
  }

  static void run(const LinearParams& p, int64_t first, int64_t last, void* scratch) {
    FewRows(p, first, last, scratch).run();
  }

 private:
  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kLine = kCacheLine / static_cast<int64_t>(sizeof(A));
  static constexpr int64_t kTile = kOutputs * kRows;
  static constexpr int64_t kDepth = 768;  // inputs that are summed together, for L1

  // Groups whose sums are kept: all of them, where they are not finished at once.
  static int64_t kept(const LinearParams& p, int64_t groups) {
    return p.inputs <= kDepth ? 1 : groups;
  }

  FewRows(const LinearParams& p, int64_t first, int64_t last, void* scratch)
      : p_(p),
        tiles_(divide_up(p.rows, kRows)),
        first_(first),
        last_(last),
        stride_(round_up(std::min(p.inputs, kDepth), kLine)) {
    Arena<A> arena(scratch);
    packed_ = arena.take(tiles_ * kRows * stride_);
    sums_ = arena.take(kept(p, last - first) * tiles_ * kTile);
  }

  void run() const {
    int64_t begin = 0;
    do {  // once where there are no inputs
      const int64_t depth = std::min(kDepth, p_.inputs - begin);
      pack(begin, depth);
      for (int64_t group = first_; group < last_; ++group) {
        A* sums = sums_ + (group - first_) % kept(p_, last_ - first_) * tiles_ * kTile;
        if (begin == 0) std::fill_n(sums, tiles_ * kTile, A(0));
        add(group, begin, depth, sums);
        if (begin + depth == p_.inputs) finish(group, sums);
      }
      begin += depth;
    } while (begin < p_.inputs);
  }

  // Packs `depth` inputs of every row, each followed by zeros to a whole cache line; rows after the
  // last are 0.
  void pack(int64_t begin, int64_t depth) const {
    const T* input = static_cast<const T*>(p_.input) + begin;
    for (int64_t n = 0; n < tiles_ * kRows; ++n) {
      A* row = packed_ + n * stride_;
      const int64_t count = n < p_.rows ? depth : 0;
      for (int64_t i = 0; i < count; ++i) row[i] = static_cast<A>(input[n * p_.input_row + i]);
      std::fill(row + count, row + stride_, A(0));
    }
  }

  // Adds `depth` inputs to the sums of a group of outputs, [tiles, kOutputs, kRows].
  void add(int64_t group, int64_t begin, int64_t depth, A* sums) const {
    const W* weight[kOutputs];
    for (int64_t o = 0; o < kOutputs; ++o) {
      const int64_t output = std::min(group * kOutputs + o, p_.outputs - 1);  // see `finish`
      weight[o] = static_cast<const W*>(p_.weight) + output * p_.weight_row + begin;
    }
    // From there to what the next call will read.
    const int64_t groups = group + 1 < last_ ? 1 : first_ - group;
    const int64_t ahead = groups * kOutputs * p_.weight_row + (groups == 1 ? 0 : depth);
    const A* rows = packed_;
    // Two tiles share what is fetched: a burst would occupy what the loads of a tile need.
    constexpr int64_t kHalf = (kOutputs + 1) / 2;
    for (int64_t t = 0; t < tiles_; ++t, sums += kTile, rows += kRows * stride_) {
      if (tiles_ == 1) {
        add<kOutputs>(rows, weight, 0, ahead, depth, sums);
      } else {
        add<kHalf>(rows, weight, t == 0 ? 0 : kOutputs - kHalf, ahead, depth, sums);
      }
      if (depth % kLanes > 0) add_rest(rows, weight, depth / kLanes * kLanes, depth, sums);
    }
  }

  // One register tile; fetches kFetched rows of the next group's weight, from `fetched` on: what
  // lies `ahead` of this group's.
  template <int64_t kFetched>
  void add(const A* rows, const W* const (&weight)[kOutputs], int64_t fetched, int64_t ahead,
           int64_t depth, A* sums) const {
    Vec<T> tile[kOutputs][kRows];
    for (int64_t o = 0; o < kOutputs; ++o) {
      for (int64_t n = 0; n < kRows; ++n) tile[o][n] = Vec<T>(A(0));
    }
    for (int64_t i = 0; i + kLanes <= depth; i += kLanes) {
      Vec<T> part[kOutputs];
      for (int64_t o = 0; o < kOutputs; ++o) part[o] = load(weight[o] + i);
      for (int64_t o = 0; o < kFetched; ++o) {
        __builtin_prefetch(weight[fetched + o] + ahead + i, 0, 2);
      }
      for (int64_t n = 0; n < kRows; ++n) {
        const Vec<T> row = Vec<T>::loadu(rows + n * stride_ + i);
        for (int64_t o = 0; o < kOutputs; ++o) {
          tile[o][n] = at::vec::fmadd(part[o], row, tile[o][n]);
        }
      }
    }
    for (int64_t o = 0; o < kOutputs; ++o) {
      A added[kRows];  // read as it was written, four at a time: the store is forwarded
      store_sums(tile[o], added);
      for (int64_t n = 0; n < kRows; ++n) sums[o * kRows + n] += added[n];
    }
  }

  // What is left after whole vectors. Apart, so that the tile of the others stays in registers;
  // with fma, so that a compiler cannot round otherwise for another W.
  void add_rest(const A* rows, const W* const (&weight)[kOutputs], int64_t begin, int64_t end,
                A* sums) const {
    for (int64_t o = 0; o < kOutputs; ++o) {
      for (int64_t n = 0; n < kRows; ++n) {
        A sum = 0;
        for (int64_t i = begin; i < end; ++i) {
          sum = std::fma(static_cast<A>(weight[o][i]), rows[n * stride_ + i], sum);
        }
        sums[o * kRows + n] += sum;
      }
    }
  }

  // Turns the sums of a group into outputs; those after the last one are left out.
  void finish(int64_t group, const A* sums) const {
    const int64_t first = group * kOutputs, count = std::min(kOutputs, p_.outputs - first);
    const T* bias = static_cast<const T*>(p_.bias);
    T* output = static_cast<T*>(p_.output) + first;
    for (int64_t n = 0; n < p_.rows; ++n, output += p_.outputs) {
      const A* row = sums + n / kRows * kTile + n % kRows;
      for (int64_t o = 0; o < count; ++o) {
        const A added = bias == nullptr ? A(0) : static_cast<A>(bias[first + o]);
        output[o] = static_cast<T>(row[o * kRows] + added);
      }
    }
  }

  const LinearParams& p_;
  const int64_t tiles_;         // of rows
  const int64_t first_, last_;  // groups of outputs
  const int64_t stride_;        // from one packed row to the next
  A* packed_;                   // [tiles, kRows, stride]
  A* sums_;                     // [groups, tiles, kOutputs, kRows]
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
