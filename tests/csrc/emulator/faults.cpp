// Kernels with one planted fault each, next to the same kernel without it.
// tests/csrc/test_emulator.py says what must catch each.
#include "driver.h"

namespace el_attention::testing {

using namespace cuda;

// Every kernel gets the same arrays and must give out[i] = x[i] of the neighbour i ^ 1, or ^ 32, in
// each block of 64 threads. Its name says what is wrong with it.
struct Arrays {
  const float* x;  // [64]
  float* out;      // [2 blocks, 64]
};

EL_DEVICE float* own(const Arrays& arrays) {
  return arrays.out + block_x() * block_size() + thread_id();
}

EL_DEVICE float* take_tile() {
  SharedArena arena = SharedArena::of_block();
  return arena.take<float>(64, "tile");
}

// ---- Order of memory accesses -------------------------------------------------------------------

enum class Sync { kNone, kShuffle, kWarp, kBlock, kGroup };

// x goes through shared memory to the thread `thread ^ distance`.
template <Sync sync, int distance>
EL_KERNEL(64, 1)
through_shared(const EL_GRID_CONSTANT Arrays arrays) {
  float* const tile = take_tile();
  const int thread = thread_id();
  store_shared(tile + thread, load_global<float>(arrays.x + thread));
  if (sync == Sync::kShuffle) warp_any(true);
  if (sync == Sync::kWarp) sync_warp();
  if (sync == Sync::kBlock) sync_threads();
  if (sync == Sync::kGroup) sync_group(1, 64);
  store_global(own(arrays), load_shared<float>(tile + (thread ^ distance)));
}

// Reads from a lower lane: nothing shows as long as lanes run in ascending order.
EL_KERNEL(64, 1) missing_barrier_below(const EL_GRID_CONSTANT Arrays arrays) {
  float* const tile = take_tile();
  const int thread = thread_id();
  const float value = load_global<float>(arrays.x + thread);
  store_shared(tile + thread, value);
  const float below = thread % 2 == 1 ? load_shared<float>(tile + thread - 1) : 0;
  const float above = shuffle(value, (lane_id() + 1) % kWarpSize);
  store_global(own(arrays), thread % 2 == 1 ? below : above);
}

// The tile is used twice; the second write may come before the last read.
template <bool barrier>
EL_KERNEL(64, 1)
tile_used_again(const EL_GRID_CONSTANT Arrays arrays) {
  float* const tile = take_tile();
  const int thread = thread_id();
  float sum = 0;
  for (int turn = 0; turn < 3; ++turn) {
    store_shared(tile + thread, load_global<float>(arrays.x + thread) * float(turn));
    sync_threads();
    sum += load_shared<float>(tile + (thread ^ 32));
    if (barrier) sync_threads();
  }
  store_global(own(arrays), sum / 3);
}

// ---- Asynchronous copies ------------------------------------------------------------------------

enum class Copy { kRight, kNoWait, kNoCommit, kWaitsForTheFirstOnly, kNoBarrier };

template <Copy copy>
EL_KERNEL(64, 1)
asynchronous(const EL_GRID_CONSTANT Arrays arrays) {
  float* const tile = take_tile();
  const int thread = thread_id();
  if (thread < 8) copy_async(tile + 4 * thread, arrays.x + 4 * thread);
  commit_copies();
  if (thread < 8) copy_async(tile + 32 + 4 * thread, arrays.x + 32 + 4 * thread);
  if (copy != Copy::kNoCommit) commit_copies();
  if (copy == Copy::kWaitsForTheFirstOnly) {
    wait_copies<1>();
  } else if (copy != Copy::kNoWait) {
    wait_copies<0>();
  }
  if (copy != Copy::kNoBarrier) sync_threads();
  store_global(own(arrays), load_shared<float>(tile + (thread ^ 32)));
}

// ---- Threads that wait for each other -----------------------------------------------------------

EL_KERNEL(64, 1) divergent_shuffle(const EL_GRID_CONSTANT Arrays arrays) {
  const float value = load_global<float>(arrays.x + thread_id());
  if (lane_id() < 16) store_global(own(arrays), shuffle_xor(value, 1));
}

EL_KERNEL(64, 1) divergent_places(const EL_GRID_CONSTANT Arrays arrays) {
  const float value = load_global<float>(arrays.x + thread_id());
  float other;
  if (lane_id() % 2 == 0) {
    other = shuffle_xor(value, 1);
  } else {
    other = shuffle_xor(value, 1);
  }
  store_global(own(arrays), other);
}

EL_KERNEL(64, 1) divergent_barrier(const EL_GRID_CONSTANT Arrays arrays) {
  if (warp_id() == 0) {
    sync_threads();
  } else {
    sync_threads();
  }
  store_global(own(arrays), 0.0f);
}

EL_KERNEL(64, 1) deadlock(const EL_GRID_CONSTANT Arrays arrays) {
  if (warp_id() == 0) return;
  sync_threads();
  store_global(own(arrays), 0.0f);
}

EL_KERNEL(64, 1) deadlock_in_groups(const EL_GRID_CONSTANT Arrays arrays) {
  sync_group(1 + warp_id(), 64);
  store_global(own(arrays), 0.0f);
}

EL_KERNEL(64, 1) different_groups(const EL_GRID_CONSTANT Arrays arrays) {
  sync_group(1, warp_id() == 0 ? 64 : 32);
  store_global(own(arrays), 0.0f);
}

EL_KERNEL(64, 1) barrier_of_no_warp(const EL_GRID_CONSTANT Arrays arrays) {
  sync_group(1, 16);
  store_global(own(arrays), 0.0f);
}

EL_KERNEL(64, 1) barrier_16(const EL_GRID_CONSTANT Arrays arrays) {
  sync_group(16, 64);
  store_global(own(arrays), 0.0f);
}

EL_KERNEL(64, 1) shuffle_from_lane_32(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays), shuffle(1.0f, lane_id() + 1));
}

// ---- Memory -------------------------------------------------------------------------------------

EL_KERNEL(64, 1) global_read_behind(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays), load_global<float>(arrays.x + thread_id() + 1));
}

EL_KERNEL(64, 1) global_read_before(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays), load_global<float>(arrays.x + thread_id() - 1));
}

EL_KERNEL(64, 1) global_write_behind(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays) + 1, 0.0f);
}

EL_KERNEL(64, 1) copy_behind(const EL_GRID_CONSTANT Arrays arrays) {
  copy_async(take_tile(), arrays.x + 64);
}

EL_KERNEL(64, 1) shared_read_behind(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays), load_shared<float>(take_tile() + thread_id() + 1));
}

EL_KERNEL(64, 1) shared_write_before(const EL_GRID_CONSTANT Arrays) {
  store_shared(take_tile() + thread_id() - 1, 0.0f);
}

EL_KERNEL(64, 1) ldmatrix_behind(const EL_GRID_CONSTANT Arrays) {
  uint32_t fragment[4];
  ldmatrix_x4(fragment, take_tile() + 4 * lane_id());
}

EL_KERNEL(64, 1) misaligned(const EL_GRID_CONSTANT Arrays arrays) {
  load_global<Bytes16>(arrays.x + 2);
}

EL_KERNEL(64, 1) write_of_read_only(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(const_cast<float*>(arrays.x), 0.0f);
}

EL_KERNEL(64, 1) two_blocks_write(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(arrays.out + thread_id(), 0.0f);
}

EL_KERNEL(64, 1) read_of_written(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays), 0.0f);
  load_global<float>(own(arrays));
}

EL_KERNEL(64, 1) relaxed_same_value(const EL_GRID_CONSTANT Arrays arrays) {
  store_global_relaxed(arrays.out, 7.0f);
}

EL_KERNEL(64, 1) relaxed_other_value(const EL_GRID_CONSTANT Arrays arrays) {
  store_global_relaxed(arrays.out, float(warp_id()));
}

EL_KERNEL(64, 1) more_shared_than_asked(const EL_GRID_CONSTANT Arrays) {
  SharedArena arena = SharedArena::of_block();
  arena.take<float>(65, "tile");
}

EL_KERNEL(64, 1) different_arrays(const EL_GRID_CONSTANT Arrays) {
  SharedArena arena = SharedArena::of_block();
  arena.take<float>(32 + thread_id() % 2, "tile");
}

EL_KERNEL(64, 1) bfloat16_on_sm_75(const EL_GRID_CONSTANT Arrays) {
  float sum[4] = {};
  const uint32_t a[4] = {};
  mma_m16n8k16<BFloat16>(sum, a, 0, 0);
}

// ---- For the sanitizers: accesses that do not go through the primitives
// ---------------------------

EL_KERNEL(64, 1) unseen_global_read(const EL_GRID_CONSTANT Arrays arrays) {
  store_global(own(arrays), arrays.x[thread_id() + 1]);
}

EL_KERNEL(64, 1) unseen_shared_write(const EL_GRID_CONSTANT Arrays) {
  take_tile()[thread_id() + 1] = 0;
}

EL_KERNEL(64, 1) local_overflow(const EL_GRID_CONSTANT Arrays arrays) {
  volatile float local[4] = {};
  volatile int index = thread_id() / 15;
  store_global(own(arrays), float(local[index]));
}

EL_KERNEL(64, 1) undefined_shift(const EL_GRID_CONSTANT Arrays arrays) {
  volatile int shift = 32 + thread_id();
  store_global(own(arrays), float(1 << shift));
}

using Kernel = void (*)(Arrays);

const std::map<std::string, Kernel> kernels = {
    {"no_sync", through_shared<Sync::kNone, 1>},
    {"shuffle_for_sync_warp", through_shared<Sync::kShuffle, 1>},
    {"sync_warp", through_shared<Sync::kWarp, 1>},
    {"sync_warp_for_sync_threads", through_shared<Sync::kWarp, 32>},
    {"sync_threads", through_shared<Sync::kBlock, 32>},
    {"sync_group", through_shared<Sync::kGroup, 32>},
    {"missing_barrier_below", missing_barrier_below},
    {"tile_used_again", tile_used_again<true>},
    {"tile_used_too_early", tile_used_again<false>},
    {"copy", asynchronous<Copy::kRight>},
    {"copy_without_wait", asynchronous<Copy::kNoWait>},
    {"copy_without_commit", asynchronous<Copy::kNoCommit>},
    {"copy_waits_for_the_first_only", asynchronous<Copy::kWaitsForTheFirstOnly>},
    {"copy_without_barrier", asynchronous<Copy::kNoBarrier>},
    {"divergent_shuffle", divergent_shuffle},
    {"divergent_places", divergent_places},
    {"divergent_barrier", divergent_barrier},
    {"deadlock", deadlock},
    {"deadlock_in_groups", deadlock_in_groups},
    {"different_groups", different_groups},
    {"barrier_of_no_warp", barrier_of_no_warp},
    {"barrier_16", barrier_16},
    {"shuffle_from_lane_32", shuffle_from_lane_32},
    {"global_read_behind", global_read_behind},
    {"global_read_before", global_read_before},
    {"global_write_behind", global_write_behind},
    {"copy_behind", copy_behind},
    {"shared_read_behind", shared_read_behind},
    {"shared_write_before", shared_write_before},
    {"ldmatrix_behind", ldmatrix_behind},
    {"misaligned", misaligned},
    {"write_of_read_only", write_of_read_only},
    {"two_blocks_write", two_blocks_write},
    {"read_of_written", read_of_written},
    {"relaxed_same_value", relaxed_same_value},
    {"relaxed_other_value", relaxed_other_value},
    {"more_shared_than_asked", more_shared_than_asked},
    {"different_arrays", different_arrays},
    {"bfloat16_on_sm_75", bfloat16_on_sm_75},
    {"unseen_global_read", unseen_global_read},
    {"unseen_shared_write", unseen_shared_write},
    {"local_overflow", local_overflow},
    {"undefined_shift", undefined_shift},
};

void run(Driver& driver) {
  const std::string name = driver.text("kernel");
  const Launch shape{name.c_str(),
                     {2, 1, 1},
                     int(driver.integer("threads")),
                     size_t(driver.integer("shared_bytes")),
                     nullptr};
  const Arrays arrays{driver.input<float>("x"), driver.output<float>("out", 128)};
  launch(shape, kernels.at(name), arrays);
}

}  // namespace el_attention::testing

int main(int count, char** arguments) {
  return el_attention::testing::run_driver(count, arguments, el_attention::testing::run);
}
