// A linear layer of many rows: vectors across the rows of the input, times single weights, which
// are read as they lie in memory.
//
// Bound by arithmetic: a register tile of outputs x vectors needs no sum over lanes. The input,
// which is small, is transposed once; the next group of the weight's rows is fetched meanwhile.
#pragma once

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// T: of input, bias and output; W: of the weight, T or one that widens to it exactly.
template <typename T, typename W>
class ManyRows {
 public:
  using A = Accumulate<T>;

  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kOutputs = kLanes;  // that are transposed together

  static int64_t scratch(const LinearParams& p, int64_t groups) {
    const int64_t rows = round_up(std::min(p.rows, kBlock), kLanes);
    const int64_t depth = round_up(std::min(p.inputs, kDepth), kLanes);
    return rows * (depth + kept(p, groups) * kOutputs) + kOutputs * converted(depth) + 4 * kLine;
  }

  static void run(const LinearParams& p, int64_t first, int64_t last, void* scratch) {
    for (int64_t row = 0; row < p.rows; row += kBlock) {
      ManyRows(p, row, first, last, scratch).run();
    }
  }

 private:
  static constexpr int64_t kLine = kCacheLine / static_cast<int64_t>(sizeof(A));
  static constexpr bool kWide = kLanes * sizeof(A) == 64;  // 32 registers, else 16
  static constexpr int64_t kVectors = kWide ? 4 : 3;       // of a register tile
  static constexpr int64_t kStep = 4;                      // inputs between two fetches
  static constexpr int64_t kBlock = 256;  // rows that are transposed together, for L2
  static constexpr int64_t kDepth = 768;  // inputs that are summed together, for L2

  // Outputs of a register tile.
  static constexpr int64_t outputs(int64_t vectors) {
    const int64_t most = kWide ? (vectors == 1 ? 16 : vectors == 4 ? 4 : 8) : vectors == 1 ? 8 : 4;
    return std::min(most, kOutputs);
  }

  // Groups whose sums are kept: all of them, where they are not finished at once.
  static int64_t kept(const LinearParams& p, int64_t groups) {
    return p.inputs <= kDepth ? 1 : groups;
  }

  // Elements of a weight's row that are converted to the accumulation dtype.
  static constexpr int64_t converted(int64_t depth) { return std::is_same_v<W, A> ? 0 : depth; }

  ManyRows(const LinearParams& p, int64_t row, int64_t first, int64_t last, void* scratch)
      : p_(p),
        row_(row),
        rows_(std::min(kBlock, p.rows - row)),
        vectors_(divide_up(rows_, kLanes)),
        tiles_(divide_up(vectors_, kVectors)),
        first_(first),
        last_(last),
        depth_(round_up(std::min(p.inputs, kDepth), kLanes)) {
    Arena<A> arena(scratch);
    transposed_ = arena.take(vectors_ * kLanes * depth_);
    sums_ = arena.take(kept(p, last - first) * kOutputs * vectors_ * kLanes);
    weight_ = arena.take(kOutputs * converted(depth_));
  }

  void run() const {
    const int64_t size = kOutputs * vectors_ * kLanes;
    int64_t begin = 0;
    do {  // once where there are no inputs
      const int64_t depth = std::min(kDepth, p_.inputs - begin);
      transpose(begin, depth);
      for (int64_t group = first_; group < last_; ++group) {
        A* sums = sums_ + (group - first_) % kept(p_, last_ - first_) * size;
        if (begin == 0) std::fill_n(sums, size, A(0));
        add(group, begin, depth, sums);
        if (begin + depth == p_.inputs) finish(group, sums);
      }
      begin += depth;
    } while (begin < p_.inputs);
  }

  // The first vector of a tile; tiles differ by at most one vector.
  int64_t first_vector(int64_t tile) const { return tile * vectors_ / tiles_; }

  // Writes `depth` inputs of every row as [tiles][depth_, vectors of the tile, kLanes]; rows and
  // inputs after the last are 0.
  void transpose(int64_t begin, int64_t depth) const {
    const T* input = static_cast<const T*>(p_.input) + row_ * p_.input_row + begin;
    A block[kLanes * kLanes];
    for (int64_t t = 0; t < tiles_; ++t) {
      const int64_t start = first_vector(t), stride = (first_vector(t + 1) - start) * kLanes;
      for (int64_t n = start * kLanes; n < start * kLanes + stride; n += kLanes) {
        A* to = transposed_ + start * kLanes * depth_ + n - start * kLanes;
        for (int64_t i = 0; i < depth; i += kLanes) {
          for (int64_t r = 0; r < kLanes; ++r) {
            Vec<T> part(A(0));
            if (n + r < rows_) part = load(input + (n + r) * p_.input_row + i, depth - i);
            part.store(block + r * kLanes);
          }
          at::vec::transpose_mxn<A, kLanes, kLanes>(block, kLanes, to + i * stride, stride);
        }
      }
    }
  }

  // Adds `depth` inputs to the sums of a group of outputs, [kOutputs, vectors, kLanes].
  void add(int64_t group, int64_t begin, int64_t depth, A* sums) const {
    const W* weight[kOutputs];
    for (int64_t o = 0; o < kOutputs; ++o) {
      const int64_t output = std::min(group * kOutputs + o, p_.outputs - 1);  // see `finish`
      weight[o] = static_cast<const W*>(p_.weight) + output * p_.weight_row + begin;
    }
    // From there to what the next call will read.
    const int64_t groups = group + 1 < last_ ? 1 : first_ - group;
    const int64_t ahead = groups * kOutputs * p_.weight_row + (groups == 1 ? 0 : depth);
    const A* summed[kOutputs];
    for (int64_t o = 0; o < kOutputs; ++o) {
      if constexpr (std::is_same_v<W, A>) {
        summed[o] = weight[o];
      } else {
        A* to = weight_ + o * depth_;
        for (int64_t i = 0; i < depth; i += kLanes) {
          load(weight[o] + i, depth - i).store(to + i);
        }
        summed[o] = to;
      }
    }
    for (int64_t t = 0; t < tiles_; ++t) {
      const int64_t start = first_vector(t);
      const A* rows = transposed_ + start * kLanes * depth_;
      switch (first_vector(t + 1) - start) {
        case 1:
          add<1>(rows, summed, weight, ahead, depth, sums + start * kLanes);
          break;
        case 2:
          add<2>(rows, summed, weight, ahead, depth, sums + start * kLanes);
          break;
        case 3:
          add<3>(rows, summed, weight, ahead, depth, sums + start * kLanes);
          break;
        default:
          add<kVectors>(rows, summed, weight, ahead, depth, sums + start * kLanes);
      }
    }
  }

  template <int64_t kCount>
  void add(const A* rows, const A* const (&summed)[kOutputs], const W* const (&weight)[kOutputs],
           int64_t ahead, int64_t depth, A* sums) const {
    for (int64_t o = 0; o < kOutputs; o += outputs(kCount)) {
      add_tile<kCount>(rows, summed + o, weight + o, ahead, depth, sums + o * vectors_ * kLanes);
    }
  }

  // One register tile of outputs x kCount vectors. Of the next group's weight, `ahead` of this
  // group's, it fetches the rows of the same outputs: every kStep inputs some, in turns.
  template <int64_t kCount>
  void add_tile(const A* rows, const A* const* summed, const W* const* weight, int64_t ahead,
                int64_t depth, A* sums) const {
    constexpr int64_t kTall = outputs(kCount), kFetched = divide_up(kTall, kTurns);
    const A* single[kTall];
    Vec<T> tile[kTall][kCount];
    for (int64_t o = 0; o < kTall; ++o) {
      single[o] = summed[o];
      for (int64_t v = 0; v < kCount; ++v) tile[o][v] = Vec<T>(A(0));
    }
    const auto multiply = [&](int64_t i) __attribute__((always_inline)) {
      Vec<T> row[kCount];
      for (int64_t v = 0; v < kCount; ++v) row[v] = Vec<T>::loadu(rows + (i * kCount + v) * kLanes);
      for (int64_t o = 0; o < kTall; ++o) {
        const Vec<T> factor(single[o][i]);
        for (int64_t v = 0; v < kCount; ++v) {
          tile[o][v] = at::vec::fmadd(factor, row[v], tile[o][v]);
        }
      }
    };
    int64_t i = 0;
    for (; i + kStep <= depth; i += kStep) {
      const W* const* fetched = weight + i / kStep % kTurns * kFetched % kTall;
      for (int64_t f = 0; f < kFetched; ++f) __builtin_prefetch(fetched[f] + ahead + i, 0, 2);
      for (int64_t j = 0; j < kStep; ++j) multiply(i + j);
    }
    for (; i < depth; ++i) multiply(i);
    for (int64_t o = 0; o < kTall; ++o) {
      for (int64_t v = 0; v < kCount; ++v) {
        A* sum = sums + (o * vectors_ + v) * kLanes;
        (Vec<T>::loadu(sum) + tile[o][v]).store(sum);
      }
    }
  }

  // Turns the sums of a group into outputs; those after the last one are left out.
  void finish(int64_t group, const A* sums) const {
    const int64_t first = group * kOutputs, count = std::min(kOutputs, p_.outputs - first);
    Vec<T> bias(A(0));
    if (p_.bias != nullptr) bias = load(static_cast<const T*>(p_.bias) + first, count);
    T* output = static_cast<T*>(p_.output) + row_ * p_.outputs + first;
    A block[kLanes * kLanes];
    for (int64_t n = 0; n < rows_; ++n, output += p_.outputs) {
      const int64_t r = n % kLanes;
      if (r == 0) {
        at::vec::transpose_mxn<A, kLanes, kLanes>(sums + n, vectors_ * kLanes, block, kLanes);
      }
      store<T>(Vec<T>::loadu(block + r * kLanes) + bias, output, count);
      __builtin_prefetch(output + 2 * kOutputs - 1, 1, 3);  // what the next group will write
    }
  }

  // Of kStep inputs each: as many as a cache line holds.
  static constexpr int64_t kTurns = kCacheLine / static_cast<int64_t>(sizeof(W)) / kStep;

  const LinearParams& p_;
  const int64_t row_, rows_, vectors_, tiles_;  // the block of rows
  const int64_t first_, last_;                  // groups of outputs
  const int64_t depth_;                         // room for so many inputs
  A* transposed_;                               // [tiles][depth, vectors of the tile, kLanes]
  A* sums_;                                     // [groups, kOutputs, vectors, kLanes]
  A* weight_;                                   // [kOutputs, depth], where it is converted
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
