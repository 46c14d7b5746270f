// A linear layer of few rows, by dot products with the rows of the weight as they lie in memory.
//
// Bound by memory at few rows: the weight is streamed once, a group of its rows ahead. Bound by
// arithmetic at many: a register tile of outputs x rows, whose part of the weight stays in L1 while
// the packed input streams through it.

#include "../linear.h"

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

template <typename T>
class Linear {
 public:
  using A = Accumulate<T>;

  // Outputs x rows of a register tile: what 16 or 32 registers hold.
  static constexpr int64_t kOutputs = Vec<T>::size() * sizeof(A) == 64 ? 6 : 3;
  static constexpr int64_t kRows = 4;

  static int64_t scratch(const LinearParams& p, int64_t groups) {
    const int64_t rows = up(std::min(p.rows, kBlock), kRows);
    return rows * (up(std::min(p.inputs, kDepth), kLine) + kept(p, groups) * kOutputs) + 2 * kLine;
  }

  static void run(const LinearParams& p, int64_t first, int64_t last, void* scratch) {
    for (int64_t row = 0; row < p.rows; row += kBlock) {
      Linear(p, row, first, last, scratch).run();
    }
  }

 private:
  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kLine = kCacheLine / static_cast<int64_t>(sizeof(A));
  static constexpr int64_t kTile = kOutputs * kRows;
  static constexpr int64_t kBlock = 256;  // rows that are packed together, for L2
  static constexpr int64_t kDepth = 768;  // inputs that are summed together, for L1

  // Groups whose sums are kept: all of them, where they are not finished at once.
  static int64_t kept(const LinearParams& p, int64_t groups) {
    return p.inputs <= kDepth ? 1 : groups;
  }

  Linear(const LinearParams& p, int64_t row, int64_t first, int64_t last, void* scratch)
      : p_(p),
        row_(row),
        rows_(std::min(kBlock, p.rows - row)),
        tiles_((rows_ + kRows - 1) / kRows),
        first_(first),
        last_(last),
        stride_(up(std::min(p.inputs, kDepth), kLine)) {
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
    const T* input = static_cast<const T*>(p_.input) + row_ * p_.input_row + begin;
    for (int64_t n = 0; n < tiles_ * kRows; ++n) {
      A* row = packed_ + n * stride_;
      const int64_t count = n < rows_ ? depth : 0;
      for (int64_t i = 0; i < count; ++i) row[i] = static_cast<A>(input[n * p_.input_row + i]);
      std::fill(row + count, row + stride_, A(0));
    }
  }

  static constexpr int64_t kHalf = (kOutputs + 1) / 2;

  // Adds `depth` inputs to the sums of a group of outputs, [tiles, kOutputs, kRows].
  void add(int64_t group, int64_t begin, int64_t depth, A* sums) const {
    const T* weight[kOutputs];
    for (int64_t o = 0; o < kOutputs; ++o) {
      const int64_t output = std::min(group * kOutputs + o, p_.outputs - 1);  // see `finish`
      weight[o] = static_cast<const T*>(p_.weight) + output * p_.weight_row + begin;
    }
    // From there to what the next call will read.
    const int64_t groups = group + 1 < last_ ? 1 : first_ - group;
    const int64_t ahead = groups * kOutputs * p_.weight_row + (groups == 1 ? 0 : depth);
    const A* rows = packed_;
    // Spread over all tiles: a burst would occupy what the loads of a tile need.
    const int64_t share = std::max<int64_t>(1, tiles_ / kOutputs);  // tiles that fetch one row
    const int64_t pace = (kLanes + share - 1) / share;
    const int64_t fetched = tiles_ == 1 ? kOutputs : tiles_ < kOutputs ? kHalf : 1;
    for (int64_t t = 0; t < tiles_; ++t, sums += kTile, rows += kRows * stride_) {
      const int64_t done = t / share * fetched;
      const int64_t from = ahead + t % share * depth / share;
      if (done >= kOutputs) {
        add<0>(rows, weight, 0, from, pace, depth, sums);
      } else if (fetched == kOutputs) {
        add<kOutputs>(rows, weight, 0, from, pace, depth, sums);
      } else if (fetched > 1) {
        add<kHalf>(rows, weight, std::min(done, kOutputs - kHalf), from, pace, depth, sums);
      } else {
        add<1>(rows, weight, done, from, pace, depth, sums);
      }
      if (depth % kLanes > 0) add_rest(rows, weight, depth / kLanes * kLanes, depth, sums);
    }
  }

  // One register tile; fetches kFetched rows of the next group's weight, from `fetched` on: what
  // lies `ahead` of this group's, `pace` elements with each vector.
  template <int64_t kFetched>
  void add(const A* rows, const T* const (&weight)[kOutputs], int64_t fetched, int64_t ahead,
           int64_t pace, int64_t depth, A* sums) const {
    Vec<T> tile[kOutputs][kRows];
    for (int64_t o = 0; o < kOutputs; ++o) {
      for (int64_t n = 0; n < kRows; ++n) tile[o][n] = Vec<T>(A(0));
    }
    for (int64_t i = 0; i + kLanes <= depth; i += kLanes, ahead += pace) {
      Vec<T> part[kOutputs];
      for (int64_t o = 0; o < kOutputs; ++o) part[o] = load(weight[o] + i);
      for (int64_t o = 0; o < kFetched; ++o) {
        __builtin_prefetch(weight[fetched + o] + ahead, 0, 2);
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

  // What is left after whole vectors. Apart, so that the tile of the others stays in registers.
  void add_rest(const A* rows, const T* const (&weight)[kOutputs], int64_t begin, int64_t end,
                A* sums) const {
    for (int64_t o = 0; o < kOutputs; ++o) {
      for (int64_t n = 0; n < kRows; ++n) {
        A sum = 0;
        for (int64_t i = begin; i < end; ++i) {
          sum += static_cast<A>(weight[o][i]) * rows[n * stride_ + i];
        }
        sums[o * kRows + n] += sum;
      }
    }
  }

  // Turns the sums of a group into outputs; those after the last one are left out.
  void finish(int64_t group, A* sums) const {
    const int64_t first = group * kOutputs, count = std::min(kOutputs, p_.outputs - first);
    if (p_.bias != nullptr) {
      const T* bias = static_cast<const T*>(p_.bias) + first;
      for (int64_t t = 0; t < tiles_; ++t) {
        for (int64_t o = 0; o < count; ++o) {
          for (int64_t n = 0; n < kRows; ++n) {
            sums[t * kTile + o * kRows + n] += static_cast<A>(bias[o]);
          }
        }
      }
    }
    if (count == kOutputs) {
      write(first, kOutputs, sums);  // a constant, so that the loop is unrolled
    } else {
      write(first, count, sums);
    }
  }

  __attribute__((always_inline)) void write(int64_t first, int64_t count, const A* sums) const {
    T* output = static_cast<T*>(p_.output) + row_ * p_.outputs + first;
    for (int64_t n = 0; n < rows_; ++n, output += p_.outputs) {
      const A* row = sums + n / kRows * kTile + n % kRows;
      for (int64_t o = 0; o < count; ++o) output[o] = static_cast<T>(row[o * kRows]);
    }
  }

  const LinearParams& p_;
  const int64_t row_, rows_, tiles_;  // the block of rows
  const int64_t first_, last_;        // groups of outputs
  const int64_t stride_;              // from one packed row to the next
  A* packed_;                         // [tiles, kRows, stride]
  A* sums_;                           // [groups, tiles, kOutputs, kRows]
};

template <typename T>
constexpr LinearKernel table() {
  return {Linear<T>::kOutputs, Linear<T>::scratch, Linear<T>::run};
}

constexpr LinearKernel kDouble = table<double>(), kFloat = table<float>(),
                       kFloat16 = table<at::Half>(), kBFloat16 = table<at::BFloat16>();

}  // namespace

const LinearKernel& linear_kernel(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double:
      return kDouble;
    case c10::ScalarType::Float:
      return kFloat;
    case c10::ScalarType::Half:
      return kFloat16;
    default:  // as the operator has made sure
      return kBFloat16;
  }
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
