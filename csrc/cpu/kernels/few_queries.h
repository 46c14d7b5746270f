// Few queries per kv head, as the beams of a sentence are in the shared projection.
//
// Bound by memory: every key and every value is read once, in the order in which it lies in memory
// (all heads of a row together), and meets all queries of the sentence while it is in registers.
#pragma once

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

template <typename T>
class FewQueries {
 public:
  using A = Accumulate<T>;

  static void fill_layout(const AttendParams& params, Layout& layout) {
    const Sizes& sizes = params.sizes;
    layout.query_stride = queries_per_kv_head(sizes);
    layout.value_stride = round_up(sizes.value_width, kLanes);
    layout.packed_query = sizes.beam * sizes.heads * round_up(sizes.width, kLanes);
  }

  // Packs the queries of a sentence as [K, M, W], each followed by zeros to a whole vector.
  static void pack_query(const AttendParams& params, int64_t group, A* packed) {
    const Sizes& sizes = params.sizes;
    const int64_t queries = queries_per_kv_head(sizes), stride = round_up(sizes.width, kLanes);
    for (int64_t k = 0; k < sizes.kv_heads; ++k) {
      for (int64_t m = 0; m < queries; ++m, packed += stride) {
        const T* query =
            static_cast<const T*>(params.query) + query_index(sizes, group, k, m) * sizes.width;
        for (int64_t w = 0; w < sizes.width; ++w) packed[w] = static_cast<A>(query[w]);
        std::fill(packed + sizes.width, packed + stride, A(0));
      }
    }
  }

  FewQueries(const AttendParams& params, const Layout& layout, int64_t group, const void* packed,
             Arena<A>& arena)
      : params_(params),
        layout_(layout),
        group_(group),
        queries_(queries_per_kv_head(params.sizes)),
        query_stride_(round_up(params.sizes.width, kLanes)),
        packed_(static_cast<const A*>(packed)),
        scores_(arena.take(params.sizes.kv_heads * queries_ * kBlock)) {}

  // Attends to rows, of which there may be none.
  void attend(const SeenRows<T>& rows, const Partial<A>& partial) {
    partial.clear(params_, layout_, /*with_context=*/true);
    for (int64_t first = 0; first < rows.count; first += kBlock) {
      const int64_t count = score(rows, first, /*then_values=*/true);
      for (int64_t i = 0; i < params_.sizes.kv_heads * queries_; ++i) soften(i, partial);
      for (int64_t t = 0; t < count; t += kRows) {
        add_context(rows, first, t, count, partial.context);
      }
    }
  }

  // Computes the scores [K, M, kBlock] of the next kBlock rows: -inf where a row is not visible,
  // and after the last row. Returns the number of rows. What is fetched during the last tile is the
  // first values of the block, if values are to be read then, or the next keys.
  int64_t score(const SeenRows<T>& rows, int64_t first, bool then_values) {
    const Row<T>* row = rows.row + first;
    const int64_t count = std::min(kBlock, rows.count - first);
    for (int64_t t = 0; t < count; t += kRows) {
      const bool last = then_values && t + kRows >= count;
      for (int64_t k = 0; k < params_.sizes.kv_heads; ++k) {
        const Tile keys(rows, first + t, k, kKeys);
        const Tile next =
            last ? Tile(rows, first, k, kValues) : Tile(rows, first + t + kRows, k, kKeys);
        int64_t m = 0;
        for (; m + kScoreQueries <= queries_; m += kScoreQueries) {
          dot<kScoreQueries>(keys, k, m, t, next);
        }
        for (; m < queries_; ++m) dot<1>(keys, k, m, t, next);
      }
    }
    for (int64_t i = 0; i < params_.sizes.kv_heads * queries_; ++i) {
      A* scores = scores_ + i * kBlock;
      std::fill(scores + count, scores + kBlock, minus_infinity<A>());
      if (params_.rows.bias != nullptr) add_bias(row, count, i, scores);
      if (rows.by_all) continue;
      for (int64_t t = 0; t < count; ++t) {
        if (!sees(params_, group_, i % queries_, row[t].index)) scores[t] = minus_infinity<A>();
      }
    }
    return count;
  }

  // The score of row t of the block for query m of kv head k.
  A score_of(int64_t k, int64_t m, int64_t t) const {
    return scores_[(k * queries_ + m) * kBlock + t];
  }

 private:
  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kBlock = 64;  // rows between two updates of the softmax
  // Register tiles, rows x queries: a tile of scores keeps its sums in registers, one of the
  // context its weights.
  static constexpr int64_t kRows = 4, kContextQueries = 2;
  static constexpr int64_t kScoreQueries = kLanes * sizeof(A) == 64 ? 4 : 2;

  enum Part { kKeys, kValues };

  // One kv head of kRows rows; after the last row of the range that row again.
  struct Tile {
    const T* row[kRows];

    Tile(const SeenRows<T>& rows, int64_t first, int64_t k, Part part) {
      for (int64_t r = 0; r < kRows; ++r) {
        const Row<T>& from = rows.row[std::min(first + r, rows.count - 1)];
        row[r] = part == kKeys ? from.key + k * from.key_head : from.value + k * from.value_head;
      }
    }

    // Fetches what lies at w, a cache line of each row: all of them at once would occupy what loads
    // need. Inlined, because GCC leaves out calls of functions that do nothing but that.
    __attribute__((always_inline)) void fetch(int64_t w) const {
      for (int64_t r = 0; r < kRows; ++r) __builtin_prefetch(row[r] + w, 0, 2);
    }
  };

  // Scores of a tile of rows for queries [m, m + kQueries) of kv head k. The first queries fetch
  // the next tile.
  template <int64_t kQueries>
  void dot(const Tile& keys, int64_t k, int64_t m, int64_t t, const Tile& next) {
    const int64_t width = params_.sizes.width, tail = width % kLanes, stride = query_stride_;
    const A* query = packed_ + (k * queries_ + m) * stride;
    // What is left of a row after whole vectors comes first: products then stay in registers.
    Vec<T> products[kQueries][kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      const Vec<T> part = tail == 0 ? Vec<T>(A(0)) : load(keys.row[r] + width - tail, tail);
      for (int64_t q = 0; q < kQueries; ++q) {
        products[q][r] = part * Vec<T>::loadu(query + (q + 1) * stride - kLanes);
      }
    }
    for (int64_t w = 0; w + kLanes <= width; w += kLanes) {
      if (m == 0) next.fetch(w);
      for (int64_t r = 0; r < kRows; ++r) {
        const Vec<T> part = load(keys.row[r] + w);
        for (int64_t q = 0; q < kQueries; ++q) {
          products[q][r] =
              at::vec::fmadd(part, Vec<T>::loadu(query + q * stride + w), products[q][r]);
        }
      }
    }
    A* scores = scores_ + (k * queries_ + m) * kBlock + t;
    for (int64_t q = 0; q < kQueries; ++q) store_sums(products[q], scores + q * kBlock);
  }

  // Adds the bias to the scores of query i, counted over all kv heads.
  void add_bias(const Row<T>* row, int64_t count, int64_t i, A* scores) const {
    const int64_t sharing = params_.sizes.heads / params_.sizes.kv_heads;
    const int64_t head = i / queries_ * sharing + i % queries_ % sharing;
    const A* bias = bias_of<A>(params_, group_, head);
    for (int64_t t = 0; t < count; ++t) scores[t] += bias[row[t].index];
  }

  // Turns the scores of one query into exp(score - maximum) and updates its maximum and sum;
  // scales what its context holds already.
  void soften(int64_t i, const Partial<A>& partial) {
    A* scores = scores_ + i * kBlock;
    Vec<T> highest(partial.maximum[i]);
    for (int64_t t = 0; t < kBlock; t += kLanes) {
      highest = at::vec::maximum(highest, Vec<T>::loadu(scores + t));
    }
    const A new_maximum = maximum(highest), base = finite_or_zero(new_maximum);
    Vec<T> total(A(0));
    for (int64_t t = 0; t < kBlock; t += kLanes) {
      const Vec<T> power = (Vec<T>::loadu(scores + t) - Vec<T>(base)).exp_u20();
      power.store(scores + t);
      total = total + power;
    }
    const A before = partial.maximum[i];
    const A scale = before == new_maximum ? A(1) : std::exp(before - base);
    partial.sum[i] = partial.sum[i] * scale + sum(total);
    partial.maximum[i] = new_maximum;
    if (scale == A(1)) return;
    A* context = partial.context + i * layout_.value_stride;
    for (int64_t v = 0; v < layout_.value_stride; v += kLanes) {
      (Vec<T>::loadu(context + v) * Vec<T>(scale)).store(context + v);
    }
  }

  // Adds exp(score - maximum) x value of rows [t, t + kRows) of a block to every context. Weights
  // after the last row are 0.
  void add_context(const SeenRows<T>& rows, int64_t first, int64_t t, int64_t count, A* context) {
    const Part part = t + kRows < count ? kValues : kKeys;
    for (int64_t k = 0; k < params_.sizes.kv_heads; ++k) {
      const Tile values(rows, first + t, k, kValues), next(rows, first + t + kRows, k, part);
      int64_t m = 0;
      for (; m + kContextQueries <= queries_; m += kContextQueries) {
        add_values<kContextQueries>(values, k, m, t, context, next);
      }
      for (; m < queries_; ++m) add_values<1>(values, k, m, t, context, next);
    }
  }

  // Adds weight x value of a tile of rows to the contexts of queries [m, m + kQueries). The first
  // queries fetch the next tile.
  template <int64_t kQueries>
  void add_values(const Tile& values, int64_t k, int64_t m, int64_t t, A* context,
                  const Tile& next) {
    const int64_t width = params_.sizes.value_width, tail = width % kLanes;
    const int64_t stride = layout_.value_stride;
    const A* scores = scores_ + (k * queries_ + m) * kBlock + t;
    context += (k * queries_ + m) * stride;
    const T* const(&value)[kRows] = values.row;
    Vec<T> weight[kQueries][kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t q = 0; q < kQueries; ++q) weight[q][r] = Vec<T>(scores[q * kBlock + r]);
    }
    const auto add = [&](int64_t v, const Vec<T>(&part)[kRows]) {
      for (int64_t q = 0; q < kQueries; ++q) {
        Vec<T> total = Vec<T>::loadu(context + q * stride + v);
        for (int64_t r = 0; r < kRows; ++r) total = at::vec::fmadd(part[r], weight[q][r], total);
        total.store(context + q * stride + v);
      }
    };
    for (int64_t v = 0; v + kLanes <= width; v += kLanes) {
      if (m == 0) next.fetch(v);
      add(v, {load(value[0] + v), load(value[1] + v), load(value[2] + v), load(value[3] + v)});
    }
    if (tail > 0) {
      const int64_t v = width - tail;
      add(v, {load(value[0] + v, tail), load(value[1] + v, tail), load(value[2] + v, tail),
              load(value[3] + v, tail)});
    }
  }

  const AttendParams& params_;
  const Layout& layout_;
  const int64_t group_, queries_, query_stride_;
  const A* packed_;
  A* scores_;
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
