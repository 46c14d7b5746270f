// What a kernel asks of the emulated machine: the bodies behind csrc/cuda/primitives.cuh, which
// says what each of these does. Called from within emulator::launch only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "numbers.h"

namespace el_attention::emulator {

// A place in the source of a kernel. As a default argument it is the place of the call.
struct Site {
  const char* file;
  int line;

  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Site& other) const { return file == other.file && line == other.line; }
  bool operator!=(const Site& other) const { return !(*this == other); }
};

struct Index {
  int x, y, z;
};

// Where the running thread is.
struct Position {
  int thread;   // in the block
  int threads;  // of the block
  Index block;
  Index grid;
};
const Position& position();

// Barriers.
void sync_block(Site site);
bool sync_block_or(bool predicate, Site site);
void sync_group(int barrier, int threads, Site site);
void sync_warp(Site site);

// Exchange between the lanes of a warp.
uint64_t exchange(uint64_t bits, int source, Site site);
uint32_t ballot(bool predicate, Site site);

template <typename T>
T shuffle(T value, int source, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, source, site);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// Memory; `bytes` is 1, 2, 4, 8 or 16, and the address a multiple of it.
void load_global(void* to, const void* address, int bytes, Site site);
void store_global(void* address, const void* from, int bytes, Site site);
void store_global_relaxed(void* address, const void* from, int bytes, Site site);
void load_shared(void* to, const void* address, int bytes, Site site);
void store_shared(void* address, const void* from, int bytes, Site site);

// The shared memory of the block, and an array at `offset` bytes of it.
unsigned char* shared_memory();
void* shared_array(size_t offset, size_t bytes, const char* name);

// Asynchronous copies of 16 bytes.
void copy_async(void* shared, const void* global, bool valid, Site site);
void commit_copies();
void wait_copies(int newest);

// Matrices.
void ldmatrix_x4(uint32_t* fragment, const void* row, bool transposed, Site site);
void mma_m16n8k16_half(float* sum, const uint32_t* a, uint32_t b0, uint32_t b1, Site site);
void mma_m16n8k16_bfloat16(float* sum, const uint32_t* a, uint32_t b0, uint32_t b1, Site site);
void mma_m16n8k8_half(float* sum, uint32_t a0, uint32_t a1, uint32_t b0, Site site);

// Stops the launch.
[[noreturn]] void trap(const char* why, Site site);

}  // namespace el_attention::emulator
