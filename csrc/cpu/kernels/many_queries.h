// Many queries per key head, as all heads of all beams are for the expanded query.
//
// Bound by arithmetic: two matrix products, scores = keys x queries and context += weights x
// values. A block of rows is packed, converted and padded once, and stays in L2 between the two.
#pragma once

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

template <typename T>
class ManyQueries {
 public:
  using A = Accumulate<T>;

  static void fill_layout(const Params& params, Layout& layout) {
    const Sizes& sizes = params.sizes;
    layout.query_stride = up(up(queries_per_key_head(sizes), kLanes), kTile);
    layout.value_stride = up(sizes.value_width, kLanes);
    layout.packed_query = sizes.key_heads * lanes_of(sizes) * sizes.width;
  }

  // Packs the queries of a sentence as [K, panels of two vectors of queries, W, queries of the
  // panel]; queries after the last are 0.
  static void pack_query(const Params& params, int64_t group, A* packed) {
    const Sizes& sizes = params.sizes;
    const int64_t queries = queries_per_key_head(sizes);
    for (int64_t k = 0; k < sizes.key_heads; ++k) {
      for (int64_t first = 0; first < lanes_of(sizes); first += kPanel) {
        const int64_t panel = std::min(kPanel, lanes_of(sizes) - first);
        for (int64_t m = first; m < first + panel; ++m) {
          A* lane = packed + m - first;
          if (m >= queries) {
            for (int64_t w = 0; w < sizes.width; ++w) lane[w * panel] = A(0);
            continue;
          }
          const T* query =
              static_cast<const T*>(params.query) + query_index(sizes, group, k, m) * sizes.width;
          for (int64_t w = 0; w < sizes.width; ++w) lane[w * panel] = static_cast<A>(query[w]);
        }
        packed += panel * sizes.width;
      }
    }
  }

  ManyQueries(const Params& params, const Layout& layout, int64_t group, const void* packed,
              Arena<A>& arena)
      : params_(params),
        layout_(layout),
        group_(group),
        lanes_(lanes_of(params.sizes)),
        same_(keys_are_values(params)),
        key_stride_(odd_lines(params.sizes.width)),
        value_stride_(odd_lines(params.sizes.value_width)),
        packed_(static_cast<const A*>(packed)),
        keys_(arena.take(kBlock * key_stride_)),
        values_(arena.take(same_ ? 0 : kBlock * value_stride_)),
        scores_(arena.take(kBlock * layout.query_stride)),
        scale_(arena.take(layout.query_stride)) {}

  // Adds rows to a partial result.
  void attend(const SeenRows<T>& rows, const Partial<A>& partial) {
    std::fill_n(scores_, kBlock * layout_.query_stride, A(0));
    std::fill_n(scale_, layout_.query_stride, A(0));
    for (int64_t first = 0; first < rows.count; first += kBlock) {
      const int64_t count = std::min(kBlock, rows.count - first);
      const int64_t ahead = std::min(kBlock, rows.count - first - count);
      for (int64_t k = 0; k < params_.sizes.key_heads; ++k) {
        attend(rows.row + first, count, ahead, rows.by_all, k, partial);
      }
    }
  }

 private:
  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kPanel = 2 * kLanes;  // columns of a register tile
  // Rows of a register tile: with two vectors of columns, what 16 or 32 registers hold.
  static constexpr int64_t kTile = kLanes * sizeof(A) == 64 ? 12 : 6;
  static constexpr int64_t kBlock = 96;  // rows that are packed together, a multiple of kTile

  static int64_t lanes_of(const Sizes& sizes) { return up(queries_per_key_head(sizes), kLanes); }

  static bool keys_are_values(const Params& params) {
    bool same = params.sizes.width == params.sizes.value_width;
    for (int64_t i = 0; i < params.piece_count; ++i) {
      const Piece& piece = params.pieces[i];
      same &= piece.keys == piece.values && piece.key_row == piece.value_row &&
              piece.key_column == piece.value_column && piece.key_head == piece.value_head;
    }
    return same;
  }

  // A row stride of an odd number of cache lines: a column of the block meets all sets of a cache.
  static int64_t odd_lines(int64_t width) {
    constexpr int64_t line = kCacheLine / static_cast<int64_t>(sizeof(A));
    return (up(width, line) / line | 1) * line;
  }

  // Adds a block of `count` rows, after which `ahead` more follow.
  void attend(const Row<T>* row, int64_t count, int64_t ahead, bool by_all, int64_t k,
              const Partial<A>& partial) {
    const Sizes& sizes = params_.sizes;
    pack(
        count, [&](int64_t t) { return row[t].key + k * row[t].key_head; }, sizes.width,
        key_stride_, keys_);
    score(count, packed_ + k * lanes_ * sizes.width, row + count, ahead, k);
    if (!by_all) hide(row, count);
    soften(count, partial.maximum + k * layout_.query_stride,
           partial.sum + k * layout_.query_stride);
    A* context = partial.context + k * layout_.query_stride * layout_.value_stride;
    if (same_) return add_context(count, keys_, key_stride_, context);
    pack(
        count, [&](int64_t t) { return row[t].value + k * row[t].value_head; }, sizes.value_width,
        value_stride_, values_);
    add_context(count, values_, value_stride_, context);
  }

  // Packs a block as [whole tiles of rows, stride], with zeros after each row; and after the last,
  // so that a tile reads nothing uninitialized.
  template <typename Source>
  static void pack(int64_t count, const Source& source, int64_t width, int64_t stride, A* packed) {
    const int64_t whole = width / kLanes * kLanes;
    for (int64_t t = 0; t < count; ++t, packed += stride) {
      const T* row = source(t);
      for (int64_t w = 0; w < whole; w += kLanes) load(row + w).store(packed + w);
      if (whole < width) load(row + whole, width - whole).store(packed + whole);
    }
    std::fill_n(packed, (up(count, kTile) - count) * stride, A(0));
  }

  // scores [kBlock, query_stride] = keys x queries, while the rows of the next block are fetched.
  void score(int64_t count, const A* queries, const Row<T>* next, int64_t ahead, int64_t k) {
    const int64_t width = params_.sizes.width;
    for (int64_t t = 0; t < count; t += kTile) {
      const A* keys = keys_ + t * key_stride_;
      A* scores = scores_ + t * layout_.query_stride;
      for (int64_t m = 0; m < lanes_; m += kPanel) {
        const int64_t fetched = width * m / lanes_, fetch = width * kPanel / lanes_;
        for (int64_t r = t; r < std::min(t + kTile, ahead); ++r) {
          prefetch(next[r].key + k * next[r].key_head + fetched, fetch);
        }
        if (m + kPanel <= lanes_) {
          multiply<2>(keys, key_stride_, 1, queries + m * width, kPanel, width, scores + m,
                      layout_.query_stride, nullptr);
        } else {
          multiply<1>(keys, key_stride_, 1, queries + m * width, kLanes, width, scores + m,
                      layout_.query_stride, nullptr);
        }
      }
    }
  }

  // context [query_stride, value_stride] = scale x context + weights x values.
  void add_context(int64_t count, const A* values, int64_t stride, A* context) {
    for (int64_t v = 0; v < layout_.value_stride; v += kPanel) {
      for (int64_t m = 0; m < layout_.query_stride; m += kTile) {
        A* tile = context + m * layout_.value_stride + v;
        if (v + kPanel <= layout_.value_stride) {
          multiply<2>(scores_ + m, 1, layout_.query_stride, values + v, stride, count, tile,
                      layout_.value_stride, scale_ + m);
        } else {
          multiply<1>(scores_ + m, 1, layout_.query_stride, values + v, stride, count, tile,
                      layout_.value_stride, scale_ + m);
        }
      }
    }
  }

  // One register tile: out [kTile, kVectors of lanes] = scale x out + left x right, where without
  // `scale` out is not read. left[i, j] lies at left[i * left_row + j * left_column], right[j] at
  // right[j * right_row]; j runs over `inner`.
  template <int64_t kVectors>
  static void multiply(const A* left, int64_t left_row, int64_t left_column, const A* right,
                       int64_t right_row, int64_t inner, A* out, int64_t out_row, const A* scale) {
    Vec<T> tile[kTile][kVectors];
    for (int64_t i = 0; i < kTile; ++i) {
      for (int64_t n = 0; n < kVectors; ++n) {
        tile[i][n] = Vec<T>(A(0));
        if (scale != nullptr) {
          tile[i][n] = Vec<T>::loadu(out + i * out_row + n * kLanes) * Vec<T>(scale[i]);
        }
      }
    }
    for (int64_t j = 0; j < inner; ++j) {
      Vec<T> columns[kVectors];
      for (int64_t n = 0; n < kVectors; ++n) columns[n] = Vec<T>::loadu(right + n * kLanes);
      for (int64_t i = 0; i < kTile; ++i) {
        const Vec<T> factor(left[i * left_row]);
        for (int64_t n = 0; n < kVectors; ++n) {
          tile[i][n] = at::vec::fmadd(factor, columns[n], tile[i][n]);
        }
      }
      left += left_column;
      right += right_row;
    }
    for (int64_t i = 0; i < kTile; ++i) {
      for (int64_t n = 0; n < kVectors; ++n) tile[i][n].store(out + i * out_row + n * kLanes);
    }
  }

  // Sets the scores of rows that a query does not see to -inf.
  void hide(const Row<T>* row, int64_t count) {
    const int64_t queries = queries_per_key_head(params_.sizes);
    for (int64_t t = 0; t < count; ++t) {
      A* scores = scores_ + t * layout_.query_stride;
      for (int64_t m = 0; m < queries; ++m) {
        if (!sees(params_, group_, m, row[t].index)) scores[m] = minus_infinity<A>();
      }
    }
  }

  // Turns scores into exp(score - maximum) and updates maximum and sum; `scale` receives the
  // factor by which what was summed before shrinks.
  void soften(int64_t count, A* maximum, A* sum) {
    for (int64_t m = 0; m < lanes_; m += kLanes) {
      const Vec<T> before = Vec<T>::loadu(maximum + m);
      Vec<T> highest = before;
      for (int64_t t = 0; t < count; ++t) {
        highest = at::vec::maximum(highest, Vec<T>::loadu(scores_ + t * layout_.query_stride + m));
      }
      const Vec<T> nothing(minus_infinity<A>());
      const Vec<T> base = Vec<T>::blendv(highest, Vec<T>(A(0)), highest == nothing);
      Vec<T> total(A(0));
      for (int64_t t = 0; t < count; ++t) {
        A* scores = scores_ + t * layout_.query_stride + m;
        const Vec<T> power = (Vec<T>::loadu(scores) - base).exp_u20();
        power.store(scores);
        total = total + power;
      }
      const Vec<T> scale = (before - base).exp();
      scale.store(scale_ + m);
      highest.store(maximum + m);
      (Vec<T>::loadu(sum + m) * scale + total).store(sum + m);
    }
  }

  const Params& params_;
  const Layout& layout_;
  const int64_t group_, lanes_;
  const bool same_;  // the keys are the values
  const int64_t key_stride_, value_stride_;
  const A* packed_;
  A *keys_, *values_, *scores_, *scale_;
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
