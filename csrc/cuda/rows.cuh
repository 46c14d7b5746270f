// What a block of threads works on: its queries, the rows it may read, and who sees them.
#pragma once

#include "../integers.h"
#include "params.h"
#include "primitives.cuh"

namespace el_attention::cuda {

// Part of a call: some of the queries that share a kv head, and a range of their sentence's rows.
// The queries of a kv head are counted beam by beam: `sharing` heads of each beam.
struct alignas(16) Work {
  int group;
  int first_row, rows;
  int first_query, queries;
  int kv_head, sharing;

  EL_DEVICE int beam_of(int query) const { return (first_query + query) / sharing; }

  EL_DEVICE int head_of(int query) const {
    return kv_head * sharing + (first_query + query) % sharing;
  }

  // Where a query begins.
  template <typename T>
  EL_DEVICE const T* begin_of(int query, const Query& queries) const {
    return static_cast<const T*>(queries.data) + group * queries.group +
           beam_of(query) * queries.beam + head_of(query) * queries.head;
  }

  // Position of a query in [G, B, H].
  EL_DEVICE int64_t position_of(int query, const Sizes& sizes) const {
    return (group * sizes.beam + beam_of(query)) * sizes.heads + head_of(query);
  }

  // The biases of a query with the rows, from the first one on; null without any.
  template <typename A>
  EL_DEVICE const A* biases_of(int query, const Rows& rows) const {
    if (rows.bias == nullptr) return nullptr;
    return static_cast<const A*>(rows.bias) + group * rows.bias_group +
           head_of(query) * rows.bias_head + first_row;
  }

  EL_DEVICE void put(Work* shared) const {
    const auto halves = bit_cast<Halves>(*this);
    store_shared(shared, halves.first);
    store_shared(reinterpret_cast<Bytes16*>(shared) + 1, halves.second);
  }
  EL_DEVICE static Work get(const Work* shared) {
    return bit_cast<Work>(
        Halves{load_shared<Bytes16>(shared),
               load_shared<Bytes16>(reinterpret_cast<const Bytes16*>(shared) + 1)});
  }

 private:
  struct Halves {
    Bytes16 first, second;
  };
};

EL_HOST_DEVICE int smaller(int a, int b) { return a < b ? a : b; }

// 32-bit division is much cheaper than 64-bit division.
EL_HOST_DEVICE int heads_per_kv_head(const Sizes& sizes) {
  return static_cast<int>(sizes.heads) / static_cast<int>(sizes.kv_heads);
}

// The number of queries of a sentence that share a kv head.
EL_HOST_DEVICE int queries_per_kv_head(const Sizes& sizes) {
  return static_cast<int>(sizes.beam) * heads_per_kv_head(sizes);
}

// The first row of this block's range.
EL_DEVICE int first_row(int rows_per_block) { return block_y() * rows_per_block; }

// The work of this block in a grid [G x K x query tiles, splits].
EL_DEVICE Work work_of_block(const Sizes& sizes, int rows_per_block, int queries_per_block) {
  const int queries = queries_per_kv_head(sizes);
  const int tiles = divide_up(queries, queries_per_block);
  const int matrix = block_x() / tiles;
  Work work;
  work.group = matrix / static_cast<int>(sizes.kv_heads);
  work.kv_head = matrix % static_cast<int>(sizes.kv_heads);
  work.sharing = heads_per_kv_head(sizes);
  work.first_query = block_x() % tiles * queries_per_block;
  work.queries = smaller(queries_per_block, queries - work.first_query);
  work.first_row = first_row(rows_per_block);
  work.rows = smaller(rows_per_block, static_cast<int>(sizes.rows) - work.first_row);
  return work;
}

// Tells the host about a value that an argument must not have.
EL_DEVICE void report_value(const Report& report, int64_t value) {
  const uint64_t mask = (uint64_t{1} << kArgumentShift) - 1;
  store_host(report.word, uint64_t(report.argument) << kArgumentShift | (uint64_t(value) & mask));
}

enum class Role { kKey, kValue };

// One sentence's column of every segment, as keys or as values.
template <typename T, Role kRole>
struct Column {
  const T** begins;  // shared memory, [kMaxSegments]

  // Fills `begins`; a barrier must follow. Reports a column that is not there, and returns whether
  // those that this thread has looked at are.
  EL_DEVICE bool locate(const Rows& rows, const Work& work, const Report& report) const {
    bool there = true;
    for (int i = thread_id(); i < rows.segment_count; i += block_size()) {
      const Segment& segment = rows.segments[i];
      const auto column = load_global<int64_t>(segment.columns + work.group);
      if (column < 0 || column >= segment.column_count) {
        report_value(report, column);
        there = false;
      }
      store_shared(begins + i,
                   static_cast<const T*>(kRole == Role::kKey ? segment.keys : segment.values) +
                       column * strides(segment).column + work.kv_head * strides(segment).head);
    }
    return there;
  }

  // The key or value of a row of the sentence.
  EL_DEVICE const T* find(const Rows& rows, int64_t row) const {
    int i = 0;
    for (; row >= rows.segments[i].rows; ++i) row -= rows.segments[i].rows;
    return load_shared<const T*>(begins + i) + row * strides(rows.segments[i]).row;
  }

 private:
  EL_DEVICE static const Strides& strides(const Segment& segment) {
    return kRole == Role::kKey ? segment.key : segment.value;
  }
};

// Which rows of a `Work` are seen, one bit each: first by any of its beams, then by each beam, or
// by all of them where they see the same.
struct Seen {
  static constexpr int kRowsPerWord = 32;

  uint32_t* words;  // shared memory, [1 + lines][stride]
  int lines, stride;

  // How many lines the beams of any `queries` queries in a row may take.
  EL_HOST_DEVICE static int lines_of(const Sizes& sizes, const Rows& rows, int queries) {
    if (!rows.visible || rows.visible_beam == 0) return 1;
    const int sharing = heads_per_kv_head(sizes);
    return smaller((queries + sharing - 2) / sharing + 1, static_cast<int>(sizes.beam));
  }

  // The line of a query.
  EL_DEVICE int line_of(int query, const Rows& rows, const Work& work) const {
    return rows.visible_beam == 0 ? 0 : work.beam_of(query) - work.beam_of(0);
  }

  // The bits of `row` and of those after it in its word.
  EL_DEVICE uint32_t by_any(int row) const { return from(words, row); }
  EL_DEVICE uint32_t by_line(int line, int row) const {
    return from(words + (1 + line) * stride, row);
  }

  // The bits of the rows of a tile that are seen by any; those of all its words at once.
  template <int kTile>
  EL_DEVICE uint32_t of_tile(int tile) const {
    static_assert(kTile % kRowsPerWord == 0 || kRowsPerWord % kTile == 0, "tiles share no word");
    constexpr uint32_t kMask = kTile < kRowsPerWord ? (1u << kTile % kRowsPerWord) - 1 : ~0u;
    uint32_t bits = 0;
    for (int row = 0; row < kTile; row += kRowsPerWord) bits |= by_any(tile * kTile + row);
    return bits & kMask;
  }

  // The first tile, from `tile` on, of which a row is seen; `tiles` if there is none.
  template <int kTile>
  EL_DEVICE int next(int tile, int tiles) const {
    while (tile < tiles && of_tile<kTile>(tile) == 0) ++tile;
    return tile;
  }

  // Fills the words. All threads of the block take part; ends with a barrier. `located` tells
  // whether a thread's columns are there: returns whether all are, else nothing is seen.
  EL_DEVICE bool fill(const Rows& rows, const Work& work, bool located) const {
    const int first_beam = work.beam_of(0);
#pragma unroll 4
    for (int i = warp_id(); i < lines * stride; i += block_size() / kWarpSize) {
      const int line = i / stride, row = i % stride * kRowsPerWord + lane_id();
      bool sees = row < work.rows && line <= line_of(work.queries - 1, rows, work);
      if (sees && rows.visible) {
        sees = load_global<bool>(rows.visible + work.group * rows.visible_group +
                                 (first_beam + line) * rows.visible_beam + work.first_row + row);
      }
      const uint32_t word = warp_ballot(sees);
      if (lane_id() == 0) store_shared(words + stride + i, word);
    }
    const bool lost = sync_threads_or(!located);
    for (int i = thread_id(); i < stride; i += block_size()) {
      uint32_t any = 0;
      for (int line = 1; line <= lines; ++line)
        any |= load_shared<uint32_t>(words + line * stride + i);
      store_shared(words + i, lost ? 0 : any);
    }
    sync_threads();
    return !lost;
  }

 private:
  EL_DEVICE static uint32_t from(const uint32_t* line, int row) {
    return load_shared<uint32_t>(line + row / kRowsPerWord) >> row % kRowsPerWord;
  }
};

// `Work::biases_of` every query, kept so that no tile of rows needs a division to find its own.
template <typename A>
struct Biases {
  const A** begins;  // shared memory, [queries]; nothing without a bias

  // How many pointers the biases of so many queries take.
  EL_HOST_DEVICE static int size(const Rows& rows, int queries) {
    return rows.bias == nullptr ? 0 : queries;
  }

  // Fills `begins`; a barrier must follow.
  EL_DEVICE void locate(const Rows& rows, const Work& work) const {
    for (int i = thread_id(); i < size(rows, work.queries); i += block_size()) {
      store_shared(begins + i, work.biases_of<A>(i, rows));
    }
  }

  // Those of a query of the block; null without any.
  EL_DEVICE const A* of(int query, const Rows& rows) const {
    return rows.bias == nullptr ? nullptr : load_shared<const A*>(begins + query);
  }
};

}  // namespace el_attention::cuda
