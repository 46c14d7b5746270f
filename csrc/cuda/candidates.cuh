// The best of many candidates, and the sum that makes them probabilities.
#pragma once

#include "../integers.h"
#include "params.h"
#include "softmax.cuh"

namespace el_attention::cuda {

constexpr int kSearchThreads = 256;
constexpr int kSearchWarps = kSearchThreads / kWarpSize;

// ---- ln(sum(exp(logit))) ------------------------------------------------------------------------

constexpr int kSumPerThread = 16;
constexpr int kSumRange = kSearchThreads * kSumPerThread;  // logits of a block, in registers

// Unites a value of each warp in all threads, always in the same order; has two barriers.
template <typename A, typename Reduce>
EL_DEVICE A reduce_over_warps(A value, A* warps, Reduce reduce) {
  if (lane_id() == 0) store_shared(warps + warp_id(), value);
  sync_threads();
  value = load_shared<A>(warps);
#pragma unroll
  for (int warp = 1; warp < kSearchWarps; ++warp) {
    value = reduce(value, load_shared<A>(warps + warp));
  }
  sync_threads();
  return value;
}

// Grid: [rows x ranges]. lse is [rows, ranges]; a second launch merges the ranges as logits, which
// the first one has written.
template <typename T>
EL_KERNEL(kSearchThreads, 2)
log_sum_exp(const EL_GRID_CONSTANT LogSumExpParams params, const int ranges) {
  using A = Accumulator<T>;
  SharedArena arena = SharedArena::of_block();
  A* warps = arena.take<A>(kSearchWarps, "warps");
  const int64_t first = int64_t{block_x() % ranges} * kSumRange;
  const T* logits =
      static_cast<const T*>(params.logits) + block_x() / ranges * params.logits_row + first;

  A logit[kSumPerThread], greatest = minus_infinity<A>();
#pragma unroll
  for (int i = 0; i < kSumPerThread; ++i) {
    const int token = i * kSearchThreads + thread_id();
    const bool inside = first + token < params.vocabulary;
    logit[i] = inside ? convert<A>(load_written<T>(logits + token)) : minus_infinity<A>();
    greatest = fmax(greatest, logit[i]);
  }
  greatest = reduce_over_warps(warp_max(greatest), warps, [](A x, A y) { return A(fmax(x, y)); });
  // Differences between infinities would be NaN.
  const A reference = isfinite(greatest) ? greatest * A(kLog2E) : A(0);
  A total = 0;
#pragma unroll
  for (int i = 0; i < kSumPerThread; ++i) {
    total += fast_exp2(fma(logit[i], A(kLog2E), -reference));
  }
  total = reduce_over_warps(warp_sum(total), warps, [](A x, A y) { return x + y; });
  if (thread_id() == 0) {
    store_global(static_cast<A*>(params.lse) + block_x(),
                 A((reference + fast_log2(total)) * A(kLn2)));
  }
}

// ---- The best candidates ------------------------------------------------------------------------

template <typename A>
struct alignas(2 * sizeof(A)) Candidate {
  A value;    // not NaN
  int index;  // of the candidates of a sentence

  EL_DEVICE static Candidate worst() { return {minus_infinity<A>(), INT32_MAX}; }

  // No two candidates are equal: whatever the order in which they are met, the result is the same.
  EL_DEVICE bool before(const Candidate& other) const {
    return value > other.value || (value == other.value && index < other.index);
  }
};

// The best candidates of a block so far, and others that came after them.
template <typename A>
class Pool {
 public:
  // Candidates that are looked at together, of each thread.
  static constexpr int kAtOnce = 4;

  EL_HOST_DEVICE Pool(SharedArena& arena, int k)
      : k_(k),
        candidates_(arena.take<Candidate<A>>(k + kSearchThreads, "candidates")),
        added_(arena.take<int>(kSearchWarps, "added")) {}

  // Looks at candidate(0) to candidate(count - 1), and keeps the best in order.
  template <typename Load>
  EL_DEVICE void scan(int count, Load candidate) {
    last_ = Candidate<A>::worst();
    for (int first = 0; first < count; first += kAtOnce * kSearchThreads) {
      Candidate<A> found[kAtOnce];
      bool better = false;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = first + i * kSearchThreads + thread_id();
        found[i] = at < count ? candidate(at) : Candidate<A>::worst();
        better |= found[i].before(last_);
      }
      if (!sync_threads_or(better)) continue;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) add(found[i]);
    }
    keep_best();
  }

  // After `scan`: the best, and the worst possible where there are fewer.
  EL_DEVICE Candidate<A> get(int rank) const {
    return rank < count_ ? load_shared<Candidate<A>>(candidates_ + rank) : Candidate<A>::worst();
  }

 private:
  // Takes in those of the threads' candidates that are better than the last of the best.
  EL_DEVICE void add(const Candidate<A>& candidate) {
    const bool better = candidate.before(last_);
    const uint32_t lanes = warp_ballot(better);
    if (lane_id() == 0) store_shared(added_ + warp_id(), count_bits(lanes));
    sync_threads();
    int added = 0, place = count_bits(lanes & ((1u << lane_id()) - 1));
#pragma unroll
    for (int warp = 0; warp < kSearchWarps; ++warp) {
      if (warp == warp_id()) place += added;
      added += load_shared<int>(added_ + warp);
    }
    if (count_ + added > k_ + kSearchThreads) keep_best();
    if (better) store_shared(candidates_ + count_ + place, candidate);
    count_ += added;
    sync_threads();
  }

  // Leaves the best in the order of their ranks; a rank counts the candidates that come before.
  EL_DEVICE void keep_best() {
    constexpr int kMost = (kMaxCandidates + kSearchThreads) / kSearchThreads;
    Candidate<A> mine[kMost];
    int rank[kMost];
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      mine[i] = Candidate<A>::worst();
      rank[i] = 0;
      const int at = i * kSearchThreads + thread_id();
      if (at < count_) mine[i] = load_shared<Candidate<A>>(candidates_ + at);
    }
    for (int at = 0; at < count_; ++at) {
      const auto other = load_shared<Candidate<A>>(candidates_ + at);
#pragma unroll
      for (int i = 0; i < kMost; ++i) rank[i] += other.before(mine[i]);
    }
    sync_threads();
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const bool there = i * kSearchThreads + thread_id() < count_;
      if (there && rank[i] < k_) store_shared(candidates_ + rank[i], mine[i]);
    }
    sync_threads();
    if (count_ < k_) return;
    count_ = k_;
    last_ = load_shared<Candidate<A>>(candidates_ + k_ - 1);
  }

  int k_, count_ = 0;
  Candidate<A>* candidates_;  // shared memory, [k + kSearchThreads]: as many as may be added
  int* added_;                // shared memory, [kSearchWarps]
  Candidate<A> last_;         // that a candidate must beat
};

// Writes the list of a block.
template <typename A>
EL_DEVICE void put(const Pool<A>& pool, int k, const Lists& lists) {
  for (int i = thread_id(); i < k; i += kSearchThreads) {
    const Candidate<A> candidate = pool.get(i);
    store_global(static_cast<A*>(lists.values) + int64_t{block_x()} * k + i, candidate.value);
    store_global(lists.index + int64_t{block_x()} * k + i, int64_t{candidate.index});
  }
}

// Grid: [rows x ranges of `tokens` tokens]; writes the list of each range.
template <typename T>
EL_KERNEL(kSearchThreads, 2)
top_candidates(const EL_GRID_CONSTANT CandidateParams params, const EL_GRID_CONSTANT Lists lists,
               const int tokens) {
  using A = Accumulator<T>;
  SharedArena arena = SharedArena::of_block();
  const int k = static_cast<int>(params.k), vocabulary = static_cast<int>(params.vocabulary);
  Pool<A> pool(arena, k);
  const int ranges = divide_up(vocabulary, tokens);
  const int row = block_x() / ranges, first = block_x() % ranges * tokens;
  const int last = first + tokens < vocabulary ? first + tokens : vocabulary;
  const T* logits = static_cast<const T*>(params.logits) + row * params.logits_row + first;
  const A lse = load_global<A>(static_cast<const A*>(params.lse) + row);
  const A score = load_global<A>(static_cast<const A*>(params.scores) + row);
  const int start = row % static_cast<int>(params.beam) * vocabulary + first;
  pool.scan(last - first, [&](int token) {
    const A value = (convert<A>(load_global<T>(logits + token)) - lse) + score;
    return Candidate<A>{value == value ? value : minus_infinity<A>(), start + token};
  });
  put(pool, k, lists);
}

// Grid: [sentences]; merges `count` candidates, the lists of each sentence.
template <typename A>
EL_KERNEL(kSearchThreads, 2)
merge_candidates(const EL_GRID_CONSTANT Lists lists, const EL_GRID_CONSTANT Lists best,
                 const int count, const int k) {
  SharedArena arena = SharedArena::of_block();
  Pool<A> pool(arena, k);
  const int64_t start = int64_t{block_x()} * count;
  pool.scan(count, [&](int i) {
    return Candidate<A>{load_written<A>(static_cast<const A*>(lists.values) + start + i),
                        static_cast<int>(load_written<int64_t>(lists.index + start + i))};
  });
  put(pool, k, best);
}

}  // namespace el_attention::cuda
