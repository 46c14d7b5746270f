// Kernels whose memory traffic is known by hand, or by the few lines of Python that check it.
#include "driver.h"

namespace el_attention::testing {

using namespace cuda;

// Each lane reads T at `offsets` [32] int, in bytes, of a shared array of 32 KB.
template <typename T>
EL_KERNEL(32, 1)
shared_pattern(const int* offsets) {
  SharedArena arena = SharedArena::of_block();
  char* const memory = arena.take<char>(32768, "memory");
  load_shared<T>(memory + load_global<int>(offsets + lane_id()));
}

EL_KERNEL(32, 1) ldmatrix_pattern(const int* offsets) {
  SharedArena arena = SharedArena::of_block();
  char* const memory = arena.take<char>(32768, "memory");
  uint32_t fragment[4];
  ldmatrix_x4(fragment, memory + load_global<int>(offsets + lane_id()));
}

// Each lane reads 4 bytes of `x` at `offsets` [32] int, in bytes, twice, and writes them in order.
EL_KERNEL(32, 1) global_pattern(const char* x, const int* offsets, float* out) {
  const int offset = load_global<int>(offsets + lane_id());
  for (int turn = 0; turn < 2; ++turn) {
    const float value = load_global<float>(x + offset);
    if (turn == 1) store_global(out + lane_id(), value);
  }
}

// 2 blocks of 2 warps; x [128, 4] float through shared memory to out [2, 128, 4].
// Each thread: copies of 2 x 16 bytes, 2 barriers, 2 x 16 bytes read and written; a warp: 3 mma.
EL_KERNEL(64, 1) everything(const float* x, float* out) {
  SharedArena arena = SharedArena::of_block();
  float* const tile = arena.take<float>(512, "tile");
  const int thread = thread_id();
  for (int i = thread; i < 128; i += 64) copy_async(tile + 4 * i, x + 4 * i);
  commit_copies();
  wait_copies<0>();
  sync_threads();
  for (int i = thread; i < 128; i += 64) {
    store_global(out + 512 * block_x() + 4 * i, load_shared<Bytes16>(tile + 4 * i));
  }
  sync_threads();
  float sum[4] = {};
  uint32_t a[4];
  ldmatrix_x4(a, tile + 4 * lane_id());
  for (int i = 0; i < 3; ++i) mma_m16n8k16<Half>(sum, a, a[0], a[1]);
}

void run(Driver& driver) {
  const std::string kernel = driver.text("kernel");
  const Launch shape{kernel.c_str(), {1, 1, 1}, 32, 32768, nullptr};
  if (kernel == "everything") {
    launch({"everything", {2, 1, 1}, 64, 2048, nullptr}, everything, driver.input<float>("x"),
           driver.output<float>("out", 1024));
    return;
  }
  const int* const offsets = driver.input<int>("offsets");
  if (kernel == "shared_1") {
    launch(shape, shared_pattern<uint8_t>, offsets);
  } else if (kernel == "shared_2") {
    launch(shape, shared_pattern<uint16_t>, offsets);
  } else if (kernel == "shared_4") {
    launch(shape, shared_pattern<uint32_t>, offsets);
  } else if (kernel == "shared_8") {
    launch(shape, shared_pattern<Bytes8>, offsets);
  } else if (kernel == "shared_16") {
    launch(shape, shared_pattern<Bytes16>, offsets);
  } else if (kernel == "ldmatrix") {
    launch(shape, ldmatrix_pattern, offsets);
  } else if (kernel == "global") {
    launch(shape, global_pattern, driver.input<char>("x"), offsets,
           driver.output<float>("out", 32));
  } else {
    throw std::invalid_argument("no kernel " + kernel);
  }
}

}  // namespace el_attention::testing

int main(int count, char** arguments) {
  return el_attention::testing::run_driver(count, arguments, el_attention::testing::run);
}
