// One small kernel for each group of primitives; tests/csrc/test_emulator.py states their results.
#include "driver.h"

namespace el_attention::testing {

using namespace cuda;

// matrices [4, 8, 8] uint16 -> plain, transposed [32, 4] uint32
EL_KERNEL(32, 1) load_matrices(const uint16_t* matrices, uint32_t* plain, uint32_t* transposed) {
  SharedArena arena = SharedArena::of_block();
  uint16_t* const tile = arena.take<uint16_t>(4 * 64, "tile");
  const int lane = lane_id();
  store_shared(tile + 8 * lane, load_global<Bytes16>(matrices + 8 * lane));
  sync_warp();
  uint32_t fragment[4];
  ldmatrix_x4(fragment, tile + 8 * lane);
  for (int i = 0; i < 4; ++i) store_global(plain + 4 * lane + i, fragment[i]);
  ldmatrix_x4_trans(fragment, tile + 8 * lane);
  for (int i = 0; i < 4; ++i) store_global(transposed + 4 * lane + i, fragment[i]);
}

// a [32, 4], b [32, 2] uint32, sum [32, 4] float: the fragments of each lane
template <typename T>
EL_KERNEL(32, 1)
multiply(const uint32_t* a, const uint32_t* b, const float* sum, float* result) {
  const int lane = lane_id();
  uint32_t fragment[4];
  float total[4];
  for (int i = 0; i < 4; ++i) {
    fragment[i] = load_global<uint32_t>(a + 4 * lane + i);
    total[i] = load_global<float>(sum + 4 * lane + i);
  }
  mma_m16n8k16<T>(total, fragment, load_global<uint32_t>(b + 2 * lane),
                  load_global<uint32_t>(b + 2 * lane + 1));
  for (int i = 0; i < 4; ++i) store_global(result + 4 * lane + i, total[i]);
}

// x [n] T -> wide [n] float, doubled [n] double: the same numbers; narrow [n] T: back again
template <typename T>
EL_KERNEL(32, 1)
widen(const T* x, int n, float* wide, double* doubled, T* narrow) {
  for (int i = lane_id(); i < n; i += kWarpSize) {
    const T value = load_global<T>(x + i);
    store_global(wide + i, convert<float>(value));
    store_global(doubled + i, convert<double>(value));
    store_global(narrow + i, convert<T>(convert<float>(value)));
  }
}

// x [2 n] float -> narrow [2 n] T, packed [n] uint32, unpacked [2 n] float
template <typename T>
EL_KERNEL(32, 1)
narrow(const float* x, int n, T* single, uint32_t* packed, float* unpacked) {
  for (int i = lane_id(); i < n; i += kWarpSize) {
    const Pair pair = load_global<Pair>(x + 2 * i);
    store_global(single + 2 * i, convert<T>(pair.low));
    store_global(single + 2 * i + 1, convert<T>(pair.high));
    const uint32_t word = pack<T>(pair.low, pair.high);
    store_global(packed + i, word);
    store_global(unpacked + 2 * i, unpack<T>(word));
  }
}

// x [n] -> powers [n] = 2^x, logarithms [n] = log2(x)
template <typename T>
EL_KERNEL(32, 1)
exponentials(const T* x, int n, T* powers, T* logarithms) {
  for (int i = lane_id(); i < n; i += kWarpSize) {
    const T value = load_global<T>(x + i);
    store_global(powers + i, fast_exp2(value));
    store_global(logarithms + i, fast_log2(value));
  }
}

// x [64] -> from_next, from_pair, greatest (of 8 lanes), total (of 8 lanes) [64]; votes [64] uint32
template <typename T>
EL_KERNEL(64, 1)
exchange(const T* x, T* from_next, T* from_pair, T* greatest, T* total, uint32_t* votes) {
  const int i = thread_id();
  const T value = load_global<T>(x + i);
  store_global(from_next + i, shuffle(value, (lane_id() + 1) % kWarpSize));
  store_global(from_pair + i, shuffle_xor(value, 16));
  store_global(greatest + i, warp_max<8>(value));
  store_global(total + i, warp_sum<8>(value));
  store_global(votes + i, warp_ballot(value > T(0)));
}

// any_of [3, 128] int: whether `thread == 127`, `false` and `warp == 0` hold anywhere in the block;
// grouped [128] int: the thread's number as the neighbour in its group of 64 threads wrote it
EL_KERNEL(128, 1) barriers(int* any_of, int* grouped) {
  SharedArena arena = SharedArena::of_block();
  int* const numbers = arena.take<int>(128, "numbers");
  const int thread = thread_id(), group = thread / 64;
  const bool predicates[] = {thread == 127, false, warp_id() == 0};
  for (int i = 0; i < 3; ++i) {
    store_global(any_of + 128 * i + thread, int(sync_threads_or(predicates[i])));
  }
  for (int turn = 0; turn < 2; ++turn) {  // twice: barriers are used again
    store_shared(numbers + (thread ^ 32), (thread ^ 32) + turn);
    sync_group(1 + group, 64);
    const int number = load_shared<int>(numbers + thread);
    sync_group(1 + group, 64);
    if (turn == 1) store_global(grouped + thread, number - 1);
  }
}

// where [blocks * threads, 6] int: thread, lane, warp, block x, y, z as the thread sees them
EL_KERNEL(64, 1) positions(int* where) {
  const int block = (block_z() * 2 + block_y()) * grid_x() + block_x();
  int* const row = where + (block * block_size() + thread_id()) * 6;
  const int values[] = {thread_id(), lane_id(), warp_id(), block_x(), block_y(), block_z()};
  for (int i = 0; i < 6; ++i) store_global(row + i, values[i]);
}

// x [32, 4] uint32 -> copied [32, 4]: rows below `rows`, then zeros
EL_KERNEL(32, 1) copies(const uint32_t* x, int rows, uint32_t* copied) {
  SharedArena arena = SharedArena::of_block();
  uint32_t* const tile = arena.take<uint32_t>(128, "tile");
  const int lane = lane_id();
  copy_async(tile + 4 * lane, x + 4 * lane, lane < rows);
  commit_copies();
  wait_copies<0>();
  sync_warp();
  const int other = kWarpSize - 1 - lane;
  store_global(copied + 4 * other, load_shared<Bytes16>(tile + 4 * other));
}

// turns [blocks, threads, 2] int: the how-manieth each thread of the launch was to come to each of
// two places with a sync_warp in between
int turn;  // the emulator's threads run one at a time
EL_KERNEL(64, 1) order(int* turns) {
  int* const row = turns + (block_x() * block_size() + thread_id()) * 2;
  store_global(row, turn++);
  sync_warp();
  store_global(row + 1, turn++);
}

template <typename T>
void run_multiply(Driver& driver) {
  launch({"multiply", {1, 1, 1}, 32, 0, nullptr}, multiply<T>, driver.input<uint32_t>("a"),
         driver.input<uint32_t>("b"), driver.input<float>("sum"),
         driver.output<float>("result", 128));
}

template <typename T>
void run_convert(Driver& driver) {
  const int n = int(driver.integer("n"));
  if (driver.has("wide_x")) {
    launch({"narrow", {1, 1, 1}, 32, 0, nullptr}, narrow<T>, driver.input<float>("wide_x"), n / 2,
           driver.output<T>("narrow", n), driver.output<uint32_t>("packed", n / 2),
           driver.output<float>("unpacked", n));
  } else {
    launch({"widen", {1, 1, 1}, 32, 0, nullptr}, widen<T>, driver.input<T>("x"), n,
           driver.output<float>("wide", n), driver.output<double>("doubled", n),
           driver.output<T>("narrow", n));
  }
}

template <typename T>
void run_exponentials(Driver& driver) {
  const int n = int(driver.integer("n"));
  launch({"exponentials", {1, 1, 1}, 32, 0, nullptr}, exponentials<T>, driver.input<T>("x"), n,
         driver.output<T>("powers", n), driver.output<T>("logarithms", n));
}

template <typename T>
void run_exchange(Driver& driver) {
  launch({"exchange", {1, 1, 1}, 64, 0, nullptr}, exchange<T>, driver.input<T>("x"),
         driver.output<T>("from_next", 64), driver.output<T>("from_pair", 64),
         driver.output<T>("greatest", 64), driver.output<T>("total", 64),
         driver.output<uint32_t>("votes", 64));
}

void run(Driver& driver) {
  const std::string kernel = driver.text("kernel");
  if (kernel == "load_matrices") {
    launch({"load_matrices", {1, 1, 1}, 32, 512, nullptr}, load_matrices,
           driver.input<uint16_t>("matrices"), driver.output<uint32_t>("plain", 128),
           driver.output<uint32_t>("transposed", 128));
  } else if (kernel == "multiply_half") {
    run_multiply<Half>(driver);
  } else if (kernel == "multiply_bfloat16") {
    run_multiply<BFloat16>(driver);
  } else if (kernel == "convert_half") {
    run_convert<Half>(driver);
  } else if (kernel == "convert_bfloat16") {
    run_convert<BFloat16>(driver);
  } else if (kernel == "exponentials_float") {
    run_exponentials<float>(driver);
  } else if (kernel == "exponentials_double") {
    run_exponentials<double>(driver);
  } else if (kernel == "exchange_float") {
    run_exchange<float>(driver);
  } else if (kernel == "exchange_double") {
    run_exchange<double>(driver);
  } else if (kernel == "barriers") {
    launch({"barriers", {1, 1, 1}, 128, 512, nullptr}, barriers, driver.output<int>("any_of", 384),
           driver.output<int>("grouped", 128));
  } else if (kernel == "positions") {
    launch({"positions", {3, 2, 2}, 64, 0, nullptr}, positions,
           driver.output<int>("where", 12 * 64 * 6));
  } else if (kernel == "copies") {
    launch({"copies", {1, 1, 1}, 32, 512, nullptr}, copies, driver.input<uint32_t>("x"),
           int(driver.integer("rows")), driver.output<uint32_t>("copied", 128));
  } else if (kernel == "order") {
    launch({"order", {2, 1, 1}, 64, 0, nullptr}, order, driver.output<int>("turns", 2 * 64 * 2));
  } else {
    throw std::invalid_argument("no kernel " + kernel);
  }
}

}  // namespace el_attention::testing

int main(int count, char** arguments) {
  return el_attention::testing::run_driver(count, arguments, el_attention::testing::run);
}
