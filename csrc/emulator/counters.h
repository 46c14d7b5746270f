// What launches did, in the units in which a GPU pays for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device.h"

namespace el_attention::emulator {

constexpr int kLanes = 32;        // of a warp
constexpr int kSectorBytes = 32;  // what global memory moves at least
constexpr int kBankBytes = 4;     // width of a bank of shared memory
constexpr int kBanks = 32;        // a wavefront moves one word of each bank: 128 bytes

// Traffic of one allocation, or of all.
struct GlobalTraffic {
  uint64_t read_bytes = 0;           // asked for by lanes
  uint64_t read_sectors = 0;         // distinct sectors of each warp access, summed
  uint64_t unique_read_bytes = 0;    // distinct bytes over all launches
  uint64_t unique_read_sectors = 0;  // distinct sectors over all launches
  uint64_t written_bytes = 0;
  uint64_t written_sectors = 0;
};

struct Counters {
  GlobalTraffic global;            // of all allocations
  uint64_t shared_wavefronts = 0;  // reads and writes of shared memory, in cycles of 128 bytes
  uint64_t shared_conflicts = 0;   // those of them that bank conflicts cost
  uint64_t mma_instructions = 0;   // of a warp
  uint64_t mma_flops = 0;          // 2 * m * n * k each
  uint64_t block_barriers = 0;     // sync_threads and sync_group, once for all their threads
};

// The shared-memory accesses of one place in the source.
struct SharedSite {
  Site site = {};
  const char* access = nullptr;  // load_shared, store_shared, copy_async or ldmatrix
  uint64_t accesses = 0;         // of a warp
  uint64_t wavefronts = 0;       // of all of them
  uint64_t conflicts = 0;        // those of them that bank conflicts cost
};

// Everything since the last reset.
Counters counters();
std::vector<SharedSite> shared_sites();
void reset_counters();

// Cycles that a warp's access of `bytes` bytes a lane takes: 8 lanes at a time for 16 bytes, 16 for
// 8 and all 32 for less, each time as many as the busiest bank has different words. `offsets` are
// bytes in shared memory; `lanes` says which lanes take part.
struct Wavefronts {
  int count;      // cycles
  int conflicts;  // cycles more than without bank conflicts
};
Wavefronts wavefronts(const uint64_t (&offsets)[kLanes], uint32_t lanes, int bytes);

}  // namespace el_attention::emulator
