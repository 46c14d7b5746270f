// Attention of expanded queries on tensor cores: K = 1, the keys are the values, 16-bit floats.
//
// A block takes a tile of the queries of one sentence and a range of its rows, and reads each row
// once. Its warps form a grid of row groups x slices: a warp keeps kRowTiles * 16 queries and their
// contexts in registers, for the kSlice columns of its slice. Each tile of rows goes through
//   score    products of each slice, to shared memory          (all warps)
//   weigh    sums over slices, softmax, weights                (one warp for each 16 queries)
//   add      weights x rows, each warp the columns of its slice (all warps)
// while the tiles after it are on their way. The number of slices follows from the width of the
// call, so that one instance serves all widths; columns beyond the width are zeros.
//
// Scores and weights cross shared memory in the layout that mma leaves and takes them in: one
// 16-byte access for each lane, without bank conflicts. Rows of a tile are padded by 16 bytes,
// which keeps ldmatrix free of them too.
#pragma once

#include "rows.cuh"
#include "softmax.cuh"

namespace el_attention::cuda {

struct alignas(16) Float4 {
  float data[4];
};

struct ExpandedQueryTiles {
  static constexpr int kMma = 16;    // queries and rows of an mma
  static constexpr int kTile = 16;   // rows of a tile
  static constexpr int kChunk = 8;   // elements of 16 bytes
  static constexpr int kHalves = 2;  // an mma gives 8 columns: two for the rows of a tile
  static constexpr int kMaxStages = 4;
  static constexpr int kMaxRowGroups = 4;
};

// What a warp keeps in registers, and the warps of a block that registers allow with that.
template <int row_tiles, int slice, int max_warps>
struct WarpShape {
  static constexpr int kRowTiles = row_tiles;  // of 16 queries
  static constexpr int kSlice = slice;         // columns
  static constexpr int kMaxWarps = max_warps;
  static constexpr int kSteps = slice / ExpandedQueryTiles::kMma;
  static constexpr int kPitch = slice + 8;  // elements of a row of a tile in shared memory
  static constexpr int kMaxWidth = slice * max_warps;
  static_assert(kPitch / 8 % 2 == 1, "rows of an even number of 16 bytes cause bank conflicts");
};
using OneRowTile = WarpShape<1, 128, 12>;
using TwoRowTiles = WarpShape<2, 128, 8>;  // reads shared memory half as often for each query
using WideSlice = WarpShape<1, 144, 12>;

// Arrays of fixed size come first: their addresses cost no registers.
template <typename T, typename Shape>
struct ExpandedQueryStorage : ExpandedQueryTiles {
  static constexpr int kRowTiles = Shape::kRowTiles, kPitch = Shape::kPitch;
  static constexpr int kMaxRowTiles = kMaxRowGroups * kRowTiles;

  Work* work;  // here and not in registers, which are scarce while rows are read
  Column<T, Role::kKey> keys;
  int* lines;               // [queries], of `seen`; -1 for queries that are missing
  Softmax<float>* softmax;  // [queries]
  float* factors;           // [queries], on the sums before this tile
  bool* rescaled;           // [row tiles], whether a factor is not 1; a warp reads its own at once
  Bytes16* weights;         // [row tiles][32 lanes], a fragment of the weights
  T* tiles;                 // [stages][slices][kTile][kPitch]
  Float4* scores;           // [slices][row tiles][kHalves][32 lanes], sums of each slice
  Seen seen;
  Biases<float> biases;

  EL_HOST_DEVICE ExpandedQueryStorage(SharedArena& arena, const Sizes& sizes, const Rows& rows,
                                      const WarpGrid& grid, int split_rows)
      : work(arena.take<Work>(1, "work")),
        keys{arena.take<const T*>(kMaxSegments, "keys")},
        lines(arena.take<int>(kMaxRowTiles * kMma, "lines")),
        softmax(arena.take<Softmax<float>>(kMaxRowTiles * kMma, "softmax")),
        factors(arena.take<float>(kMaxRowTiles * kMma, "factors")),
        rescaled(arena.take<bool>(kMaxRowTiles, "rescaled")),
        weights(arena.take<Bytes16>(kMaxRowTiles * kWarpSize, "weights")),
        tiles(arena.take<T>(grid.stages * grid.slices * kTile * kPitch, "tiles")),
        scores(arena.take<Float4>(grid.slices * grid.row_groups * kRowTiles * kHalves * kWarpSize,
                                  "scores")) {
    const int queries = grid.row_groups * kRowTiles * kMma;
    seen.lines = Seen::lines_of(sizes, rows, queries);
    seen.stride = divide_up(split_rows, Seen::kRowsPerWord);
    seen.words = arena.take<uint32_t>((1 + seen.lines) * seen.stride, "seen");
    biases.begins = arena.take<const float*>(biases.size(rows, queries), "biases");
  }
};

template <typename T, typename Shape>
class ExpandedQuery : ExpandedQueryTiles {
  static constexpr int kRowTiles = Shape::kRowTiles, kSlice = Shape::kSlice;
  static constexpr int kSteps = Shape::kSteps, kPitch = Shape::kPitch;

 public:
  EL_DEVICE ExpandedQuery(const AttendParams& params, const Split& split, const WarpGrid& grid,
                          const ExpandedQueryStorage<T, Shape>& storage)
      : params_(params), split_(split), grid_(grid), storage_(storage) {}

  EL_DEVICE void run(const Work& work) {
    if (thread_id() == 0) work.put(storage_.work);
    const bool located = storage_.keys.locate(params_.rows, work, params_.report);
    for (int query = thread_id(); query < row_tiles() * kMma; query += block_size()) {
      const bool there = query < work.queries;
      store_shared(storage_.lines + query,
                   there ? storage_.seen.line_of(query, params_.rows, work) : -1);
      store_shared(storage_.softmax + query, Softmax<float>::empty());
    }
    load_queries(work);
    storage_.biases.locate(params_.rows, work);
    if (storage_.seen.fill(params_.rows, work, located)) {
      attend(work.rows);
    } else {
      lose();
    }
    finish(Work::get(storage_.work));
  }

 private:
  // Where a column is not there, contexts and lse become NaN.
  EL_DEVICE void lose() const {
    for (int query = thread_id(); query < row_tiles() * kMma; query += block_size()) {
      store_shared(storage_.softmax + query, Softmax<float>{minus_infinity<float>(), NAN});
    }
    sync_threads();
  }

  EL_DEVICE void attend(int rows) {
    const int tiles = divide_up(rows, kTile);
    int tile = next(0, tiles), stage = 0;
    int ahead = 0;  // where to look for the next tile to copy, stages - 1 before its use
    for (int i = 0; i + 1 < grid_.stages; ++i) ahead = copy_next(ahead, tiles, i);
    while (tile < tiles) {
      if (grid_.stages > 1) wait_for_oldest();
      sync_slice();  // the tile is there, and the one before it is done with
      ahead = copy_next(ahead, tiles, stage == 0 ? grid_.stages - 1 : stage - 1);
      if (grid_.stages == 1) {
        wait_copies<0>();
        sync_slice();
      }
      score(stage);
      sync_threads();
      weigh(tile);
      sync_threads();
      add(stage);
      tile = next(tile + 1, tiles);
      stage = stage + 1 == grid_.stages ? 0 : stage + 1;
    }
  }

  // The place of a warp in the grid, by comparisons: the loop over rows has no room for a division.
  EL_DEVICE int row_group() const {
    int group = 0;
#pragma unroll
    for (int i = 1; i < kMaxRowGroups; ++i) group += warp_id() >= i * grid_.slices;
    return group;
  }
  EL_DEVICE int slice() const { return warp_id() - row_group() * grid_.slices; }
  EL_DEVICE int row_tiles() const { return grid_.row_groups * kRowTiles; }
  // A warp's i-th row tile, within the block.
  EL_DEVICE int row_tile(int i) const { return row_group() * kRowTiles + i; }
  // Where lane l's elements of a fragment are: rows l / 4 and + 8, columns 2 * (l % 4) and + 1.
  EL_DEVICE static int fragment_row() { return lane_id() / 4; }
  EL_DEVICE static int fragment_column() { return lane_id() % 4 * 2; }

  EL_DEVICE int next(int tile, int tiles) const {
    return storage_.seen.template next<kTile>(tile, tiles);
  }

  EL_DEVICE T* tile_of(int stage) const {
    return storage_.tiles + (stage * grid_.slices + slice()) * kTile * kPitch;
  }

  // A slice of a tile is copied and read by the warps of the slice alone.
  EL_DEVICE void sync_slice() const {
    if (grid_.row_groups == 1) {
      sync_warp();
    } else {
      sync_group(1 + slice(), grid_.row_groups * kWarpSize);
    }
  }

  EL_DEVICE void wait_for_oldest() const {
    static_assert(kMaxStages == 4, "a case for each number of stages");
    if (grid_.stages == 2) {
      wait_copies<0>();
    } else if (grid_.stages == 3) {
      wait_copies<1>();
    } else {
      wait_copies<2>();
    }
  }

  EL_DEVICE void load_queries(const Work& work) {
    const int width = static_cast<int>(params_.sizes.width);
    const int column = slice() * kSlice + fragment_column();
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int query = row_tile(i) * kMma + fragment_row() + part % 2 * 8;
        const int first = column + part / 2 * 8;
        const T* source = nullptr;
        if (query < work.queries) source = work.begin_of<T>(query, params_.query) + first;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const bool valid = query < work.queries && first + step * kMma < width;
          queries_[i][step][part] = valid ? load_global<uint32_t>(source + step * kMma) : 0;
        }
      }
    }
  }

  // Starts the copy of this warp's part of the first tile, from `tile` on, that somebody sees; rows
  // that nobody sees become zeros, unread. Returns where to look for the next one.
  EL_DEVICE int copy_next(int tile, int tiles, int stage) const {
    uint32_t seen = 0;
    while (tile < tiles && (seen = storage_.seen.template of_tile<kTile>(tile)) == 0) ++tile;
    if (tile < tiles) {
      const int own = lane_id() % kTile;
      const T* key = nullptr;
      if (seen >> own & 1) {
        key = storage_.keys.find(params_.rows, first_row(split_.rows) + tile * kTile + own);
      }
      constexpr int kChunks = kSlice / kChunk, kRowsAtOnce = kWarpSize / kChunks;
      const int column = lane_id() % kChunks * kChunk;
      const bool inside = slice() * kSlice + column < params_.sizes.width;
      for (int rows = row_group(); rows < kTile / kRowsAtOnce; rows += grid_.row_groups) {
        const int row = rows * kRowsAtOnce + lane_id() / kChunks;
        const T* source = reinterpret_cast<const T*>(shuffle(reinterpret_cast<uint64_t>(key), row));
        const bool valid = source != nullptr && inside;
        if (lane_id() >= kRowsAtOnce * kChunks) continue;
        copy_async(tile_of(stage) + row * kPitch + column,
                   valid ? source + slice() * kSlice + column : nullptr, valid);
      }
    }
    commit_copies();
    return tile + 1;
  }

  EL_DEVICE void score(int stage) const {
    float sums[kRowTiles][kHalves][4] = {};
    const T* row =
        tile_of(stage) + (lane_id() % 8 + lane_id() / 16 * 8) * kPitch + lane_id() / 8 % 2 * kChunk;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      ldmatrix_x4(keys, row + step * kMma);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_m16n8k16<T>(sums[i][0], queries_[i][step], keys[0], keys[1]);
        mma_m16n8k16<T>(sums[i][1], queries_[i][step], keys[2], keys[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const float (&x)[4] = sums[i][half];
        store_shared(scores_of(slice(), row_tile(i), half), Float4{{x[0], x[1], x[2], x[3]}});
      }
    }
  }

  EL_DEVICE Float4* scores_of(int slice, int row_tile, int half) const {
    return storage_.scores + ((slice * row_tiles() + row_tile) * kHalves + half) * kWarpSize +
           lane_id();
  }

  // Scores of 16 queries with the rows of a tile become weights, rounded to T.
  EL_DEVICE void weigh(int tile) const {
    for (int i = warp_id(); i < row_tiles(); i += block_size() / kWarpSize) {
      float scores[kHalves][4] = {};
#pragma unroll 2
      for (int slice = 0; slice < grid_.slices; ++slice) {
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const auto part = load_shared<Float4>(scores_of(slice, i, half));
#pragma unroll
          for (int e = 0; e < 4; ++e) scores[half][e] += part.data[e];
        }
      }
      Bytes16 weights;
      bool rescaled = false;
#pragma unroll
      for (int side = 0; side < 2; ++side) {  // this lane's two queries
        const int query = i * kMma + fragment_row() + side * 8;
        const int line = load_shared<int>(storage_.lines + query);
        const uint32_t sees = line < 0 ? 0 : storage_.seen.by_line(line, tile * kTile);
        const float* biases = line < 0 ? nullptr : storage_.biases.of(query, params_.rows);
        float greatest = minus_infinity<float>();
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[half][side * 2 + e];
            const int row = half * 8 + fragment_column() + e;
            if (!(sees >> row & 1)) {
              score = minus_infinity<float>();
            } else if (biases != nullptr) {
              score += load_global<float>(biases + tile * kTile + row);
            }
            greatest = fmaxf(greatest, score);
          }
        }
        auto softmax = load_shared<Softmax<float>>(storage_.softmax + query);
        const float factor = softmax.raise(warp_max<4>(greatest));
        rescaled |= factor != 1;
        float total = 0;
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const float* score = scores[half] + side * 2;
          const Pair pair{softmax.weight(score[0]), softmax.weight(score[1])};
          total += pair.low + pair.high;
          weights.words[half * 2 + side] = pack<T>(pair.low, pair.high);
        }
        softmax.total = softmax.total * factor + warp_sum<4>(total);
        sync_warp();  // all four lanes have read what one of them writes
        if (lane_id() % 4 == 0) {
          store_shared(storage_.factors + query, factor);
          store_shared(storage_.softmax + query, softmax);
        }
      }
      rescaled = warp_any(rescaled);
      if (lane_id() == 0) store_shared(storage_.rescaled + i, rescaled);
      store_shared(storage_.weights + i * kWarpSize + lane_id(), weights);
    }
  }

  EL_DEVICE void add(int stage) {
    struct alignas(kRowTiles) Rescaled {
      bool of[kRowTiles];
    };
    const auto rescaled = load_shared<Rescaled>(storage_.rescaled + row_tile(0));
    uint32_t weights[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const auto packed =
          load_shared<Bytes16>(storage_.weights + row_tile(i) * kWarpSize + lane_id());
      if (rescaled.of[i]) rescale(i);
#pragma unroll
      for (int e = 0; e < 4; ++e) weights[i][e] = packed.words[e];
    }
    const T* row = tile_of(stage) + lane_id() % kTile * kPitch + lane_id() / kTile * kChunk;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t values[4];
      ldmatrix_x4_trans(values, row + step * kMma);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_m16n8k16<T>(contexts_[i][2 * step], weights[i], values[0], values[1]);
        mma_m16n8k16<T>(contexts_[i][2 * step + 1], weights[i], values[2], values[3]);
      }
    }
  }

  EL_DEVICE void rescale(int i) {
    const float* factors = storage_.factors + row_tile(i) * kMma + fragment_row();
    const auto upper = load_shared<float>(factors), lower = load_shared<float>(factors + 8);
#pragma unroll
    for (int n = 0; n < 2 * kSteps; ++n) {
      contexts_[i][n][0] *= upper;
      contexts_[i][n][1] *= upper;
      contexts_[i][n][2] *= lower;
      contexts_[i][n][3] *= lower;
    }
  }

  EL_DEVICE void finish(const Work& work) const {
    const int64_t first = work.position_of(0, params_.sizes);
    if (split_.count == 1) {
      write(static_cast<T*>(params_.context), static_cast<float*>(params_.lse), first,
            work.queries);
    } else {
      const int64_t positions = params_.sizes.groups * params_.sizes.beam * params_.sizes.heads;
      write(static_cast<float*>(split_.context), static_cast<float*>(split_.lse),
            block_y() * positions + first, work.queries);
    }
  }

  EL_DEVICE static void write_pair(T* address, Pair x) {
    store_global(address, pack<T>(x.low, x.high));
  }
  EL_DEVICE static void write_pair(float* address, Pair x) { store_global(address, x); }

  // Writes contexts and lse from `position` on of [..., width] and [...].
  template <typename Out>
  EL_DEVICE void write(Out* context, float* lse, int64_t position, int queries) const {
    const int width = static_cast<int>(params_.sizes.width);
    const int column = slice() * kSlice + fragment_column();
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int query = row_tile(i) * kMma + fragment_row() + side * 8;
        if (query >= queries) continue;
        const auto softmax = load_shared<Softmax<float>>(storage_.softmax + query);
        const float norm = softmax.norm();
        if (slice() == 0 && lane_id() % 4 == 0) store_global(lse + position + query, softmax.lse());
        Out* row = context + (position + query) * width + column;
#pragma unroll
        for (int n = 0; n < 2 * kSteps; ++n) {
          if (column + n * 8 >= width) break;
          const float* sums = contexts_[i][n] + side * 2;
          write_pair(row + n * 8, {sums[0] * norm, sums[1] * norm});
        }
      }
    }
  }

  const AttendParams& params_;
  const Split& split_;
  const WarpGrid& grid_;
  const ExpandedQueryStorage<T, Shape>& storage_;
  uint32_t queries_[kRowTiles][kSteps][4];
  float contexts_[kRowTiles][2 * kSteps][4] = {};
};

// Grid: [sentences x tiles of queries, ranges of rows].
template <typename T, typename Shape>
EL_KERNEL(Shape::kMaxWarps* kWarpSize, 1)
expanded_query(const EL_GRID_CONSTANT AttendParams params, const EL_GRID_CONSTANT Split split,
               const EL_GRID_CONSTANT WarpGrid grid) {
  const int queries = grid.row_groups * Shape::kRowTiles * ExpandedQueryTiles::kMma;
  const Work work = work_of_block(params.sizes, split.rows, queries);
  SharedArena arena = SharedArena::of_block();
  const ExpandedQueryStorage<T, Shape> storage(arena, params.sizes, params.rows, grid, split.rows);
  ExpandedQuery<T, Shape>(params, split, grid, storage).run(work);
}

}  // namespace el_attention::cuda
