// Many queries per kv head, as all heads of all beams are for the expanded query.
//
// Bound by arithmetic: two matrix products, scores = keys x queries and context += weights x
// values. A block of rows stays in L2 between the two. It is packed, converted and padded once, or
// read in place where its rows can be the operand of a product.
#pragma once

#include "common.h"
#include "register_tile.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// Fetches rows into L2, one cache line at a time: a burst would occupy what the loads of a product
// need.
template <typename T>
class Ahead {
 public:
  // Rows [row, last), with keys and values of kv head k; values only where they are not the keys.
  Ahead(const Row<T>* row, const Row<T>* last, int64_t k, int64_t width, int64_t value_width)
      : row_(row), last_(last), k_(k), widths_{width, value_width} {
    begin();
  }

  // The next cache line, if there is one.
  __attribute__((always_inline)) void fetch() {
    if (row_ == last_) return;
    __builtin_prefetch(next_, 0, 2);
    next_ += kCacheLine;
    if (next_ >= end_) turn();
  }

 private:
  // Goes on behind the key or the value of a row.
  void turn() {
    value_ = !value_ && widths_[1] > 0;
    row_ += !value_;
    begin();
  }
  void begin() {
    if (row_ == last_) return;
    const T* part = value_ ? row_->value + k_ * row_->value_head : row_->key + k_ * row_->key_head;
    next_ = reinterpret_cast<const char*>(part);
    end_ = reinterpret_cast<const char*>(part + widths_[value_]);
  }

  const Row<T>*row_, *last_;
  int64_t k_, widths_[2];
  bool value_ = false;
  const char *next_ = nullptr, *end_ = nullptr;
};

template <typename T>
class ManyQueries {
 public:
  using A = Accumulate<T>;

  static void fill_layout(const AttendParams& params, Layout& layout) {
    const Sizes& sizes = params.sizes;
    layout.query_stride = round_up(round_up(queries_per_kv_head(sizes), kLanes), kTile);
    layout.value_stride = round_up(sizes.value_width, kLanes);
    layout.packed_query = sizes.kv_heads * lanes_of(sizes) * sizes.width;
  }

  // Packs the queries of a sentence as [K, panels of up to kVectors vectors of queries, W, queries
  // of the panel]; queries after the last are 0.
  static void pack_query(const AttendParams& params, int64_t group, A* packed) {
    const Sizes& sizes = params.sizes;
    for (int64_t k = 0; k < sizes.kv_heads; ++k) {
      for (int64_t first = 0, panel; first < lanes_of(sizes); first += panel) {
        panel = Tile::panel_of(lanes_of(sizes) - first);
        for (int64_t m = first; m < first + panel; m += kLanes) {
          pack_lanes(params, group, k, m, panel, packed + m - first);
        }
        packed += panel * sizes.width;
      }
    }
  }

  ManyQueries(const AttendParams& params, const Layout& layout, int64_t group, const void* packed,
              Arena<A>& arena)
      : params_(params),
        layout_(layout),
        group_(group),
        lanes_(lanes_of(params.sizes)),
        same_(keys_are_values(params)),
        key_stride_(round_up(params.sizes.width, kLanes)),
        packed_(static_cast<const A*>(packed)),
        keys_(arena.take(kBlock * key_stride_)),
        values_(arena.take(same_ ? 0 : kBlock * layout.value_stride)),
        panel_(arena.take(kBlock * kPanel)),
        scores_(arena.take(kBlock * layout.query_stride)),
        scale_(arena.take(layout.query_stride)) {}

  // Attends to rows, of which there may be none.
  void attend(const SeenRows<T>& rows, const Partial<A>& partial) {
    partial.clear(params_, layout_, /*with_context=*/rows.count == 0);
    std::fill_n(scores_, kBlock * layout_.query_stride, A(0));
    std::fill_n(scale_, layout_.query_stride, A(0));
    for (int64_t k = 0; k < params_.sizes.kv_heads; ++k) {
      for (int64_t first = 0; first < rows.count; first += kBlock) {
        attend(rows, first, std::min(kBlock, rows.count - first), k, partial);
      }
    }
  }

 private:
  using Tile = RegisterTile<T>;
  static constexpr int64_t kLanes = Vec<T>::size(), kTile = Tile::kRows, kPanel = Tile::kPanel;
  static constexpr int64_t kBlock = 96;  // rows that share a softmax, a multiple of kTile

  static int64_t lanes_of(const Sizes& sizes) {
    return round_up(queries_per_kv_head(sizes), kLanes);
  }

  static bool keys_are_values(const AttendParams& params) {
    bool same = params.sizes.width == params.sizes.value_width;
    for (int64_t i = 0; i < params.rows.segment_count; ++i) {
      const Segment& segment = params.rows.segments[i];
      same &= segment.keys == segment.values && segment.key.row == segment.value.row &&
              segment.key.column == segment.value.column && segment.key.head == segment.value.head;
    }
    return same;
  }

  // Writes kLanes queries from m on as columns of a panel, [W, panel]; queries after the last are
  // 0.
  static void pack_lanes(const AttendParams& params, int64_t group, int64_t k, int64_t m,
                         int64_t panel, A* packed) {
    const Sizes& sizes = params.sizes;
    const int64_t count = queries_per_kv_head(sizes) - m;
    A block[kLanes * kLanes] = {}, columns[kLanes * kLanes];
    for (int64_t w = 0; w < sizes.width; w += kLanes) {
      const int64_t inner = std::min(kLanes, sizes.width - w);
      for (int64_t i = 0; i < std::min(kLanes, count); ++i) {
        const T* query = static_cast<const T*>(params.query) +
                         query_index(sizes, group, k, m + i) * sizes.width + w;
        load(query, inner).store(block + i * kLanes);
      }
      at::vec::transpose_mxn<A, kLanes, kLanes>(block, kLanes, columns, kLanes);
      for (int64_t i = 0; i < inner; ++i) {
        Vec<T>::loadu(columns + i * kLanes).store(packed + (w + i) * panel);
      }
    }
  }

  // A block of rows as the operand of a product: row t begins at data + t * stride.
  struct Block {
    const A* data;
    int64_t stride;
    bool in_place;
  };

  // Adds a block: `count` rows from `first` on.
  void attend(const SeenRows<T>& rows, int64_t first, int64_t count, int64_t k,
              const Partial<A>& partial) {
    const Row<T>* row = rows.row + first;
    const auto at = [&](int64_t t) { return rows.row + std::min(first + t, rows.count); };
    const auto key = [&](int64_t t) { return row[t].key + k * row[t].key_head; };
    const auto value = [&](int64_t t) { return row[t].value + k * row[t].value_head; };
    const auto [width, value_width] = std::pair(params_.sizes.width, params_.sizes.value_width);
    const Block keys = block(count, key, width, keys_, key_stride_);
    for (int64_t t = 0; t < count; t += kTile) {
      if (!keys.in_place) {
        pack(t, std::min(t + kTile, count), key, width, keys_, key_stride_);
        // A tile reads nothing uninitialized.
        for (int64_t i = count; i < t + kTile; ++i)
          std::fill_n(keys_ + i * key_stride_, width, A(0));
      }
      // While a tile is scored, the next one is fetched.
      Ahead<T> ahead(at(t + kTile), at(t + 2 * kTile), k, width, same_ ? 0 : value_width);
      score(keys, t, packed_ + k * lanes_ * width, ahead);
    }
    if (params_.rows.bias != nullptr) add_bias(row, count, k);
    if (!rows.by_all) hide(row, count);
    soften(count, partial.maximum + k * layout_.query_stride,
           partial.sum + k * layout_.query_stride);
    A* context = partial.context + k * layout_.query_stride * layout_.value_stride;
    const A* scale = first == 0 ? nullptr : scale_;  // there is no context yet
    if (same_) return add_context(keys, count, context, scale);
    const Block values = block(count, value, value_width, values_, layout_.value_stride);
    if (!values.in_place) pack(0, count, value, value_width, values_, layout_.value_stride);
    add_context(values, count, context, scale);
  }

  // The rows themselves, if they are evenly spaced whole vectors of the accumulation dtype in whole
  // tiles; otherwise where they are to be packed.
  template <typename Source>
  static Block block(int64_t count, const Source& source, int64_t width, A* packed,
                     int64_t packed_stride) {
    if constexpr (std::is_same_v<T, A>) {
      const int64_t stride = source(1 % count) - source(0);
      bool in_place = count % kTile == 0 && width % kLanes == 0;
      for (int64_t t = 1; in_place && t < count; ++t) {
        in_place = source(t) == source(0) + t * stride;
      }
      if (in_place) return {source(0), stride, true};
    }
    return {packed, packed_stride, false};
  }

  // Packs rows [begin, end) of a block, each followed by zeros to a whole vector.
  template <typename Source>
  static void pack(int64_t begin, int64_t end, const Source& source, int64_t width, A* packed,
                   int64_t stride) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = source(t);
      A* out = packed + t * stride;
      for (int64_t w = 0; w < width; w += kLanes) load(row + w, width - w).store(out + w);
    }
  }

  // scores [kTile, query_stride] of rows from t on = keys x queries. Meanwhile fetches as much as
  // it reads of the keys, or twice as much where there are values, too.
  void score(const Block& keys, int64_t t, const A* queries, Ahead<T>& ahead) {
    // A panel reads a cache line of keys in so many steps.
    constexpr int64_t kLine = kCacheLine / (kTile * static_cast<int64_t>(sizeof(T)));
    const bool one_panel = lanes_ <= kPanel;
    if (one_panel == same_) {
      score<kLine>(keys, t, queries, ahead);
    } else if (same_) {
      score<2 * kLine>(keys, t, queries, ahead);
    } else {
      score<std::max<int64_t>(kLine / 2, 1)>(keys, t, queries, ahead);
    }
  }

  template <int64_t kSteps>
  void score(const Block& keys, int64_t t, const A* queries, Ahead<T>& ahead) {
    const int64_t width = params_.sizes.width;
    const auto fetch = [&](int64_t, const auto&) __attribute__((always_inline)) { ahead.fetch(); };
    for (int64_t m = 0, panel; m < lanes_; m += panel) {
      panel = Tile::panel_of(lanes_ - m);
      Tile::template multiply<Tile::kByRow, kSteps>(
          panel,
          {keys.data + t * keys.stride, keys.stride, queries + m * width, panel, width,
           scores_ + t * layout_.query_stride + m, layout_.query_stride, nullptr},
          fetch);
    }
  }

  // context [query_stride, value_stride] = scale x context + weights x values, where without
  // `scale` it is not read. The first tile of queries keeps a panel of values for the others:
  // values that are a multiple of 4 KB apart would not stay in L1.
  void add_context(const Block& values, int64_t count, A* context, const A* scale) {
    for (int64_t v = 0, panel; v < layout_.value_stride; v += panel) {
      panel = Tile::panel_of(layout_.value_stride - v);
      const auto keep = [&](int64_t t, const auto& columns) __attribute__((always_inline)) {
        A* to = panel_ + t * panel;
        for (const Vec<T>& column : columns) {
          column.store(to);
          to += kLanes;
        }
      };
      const auto product = [&](int64_t m, const A* right, int64_t stride) {
        return typename Tile::Product{scores_ + m,
                                      layout_.query_stride,
                                      right,
                                      stride,
                                      count,
                                      context + m * layout_.value_stride + v,
                                      layout_.value_stride,
                                      scale == nullptr ? nullptr : scale + m};
      };
      Tile::template multiply<Tile::kByColumn, 1>(panel, product(0, values.data + v, values.stride),
                                                  keep);
      for (int64_t m = kTile; m < layout_.query_stride; m += kTile) {
        Tile::template multiply<Tile::kByColumn, 1>(panel, product(m, panel_, panel),
                                                    [](int64_t, const auto&) {});
      }
    }
  }

  // Adds the bias to the scores of the queries of kv head k.
  void add_bias(const Row<T>* row, int64_t count, int64_t k) {
    const int64_t queries = queries_per_kv_head(params_.sizes);
    const int64_t sharing = params_.sizes.heads / params_.sizes.kv_heads;
    for (int64_t head = 0; head < sharing; ++head) {
      const A* bias = bias_of<A>(params_, group_, k * sharing + head);
      for (int64_t t = 0; t < count; ++t) {
        const A added = bias[row[t].index];
        A* scores = scores_ + t * layout_.query_stride;
        for (int64_t m = head; m < queries; m += sharing) scores[m] += added;
      }
    }
  }

  // Sets the scores of rows that a query does not see to -inf.
  void hide(const Row<T>* row, int64_t count) {
    const int64_t queries = queries_per_kv_head(params_.sizes);
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

  const AttendParams& params_;
  const Layout& layout_;
  const int64_t group_, lanes_;
  const bool same_;  // the keys are the values
  const int64_t key_stride_;
  const A* packed_;
  A *keys_, *values_, *panel_, *scores_, *scale_;
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
