// Global memory as kernels may touch it: the registered allocations, and what a launch did to each.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "launch.h"

namespace el_attention::emulator {

// What is known of one allocation.
struct Region {
  Region(const Allocation& allocation, Access access);

  uint64_t begin() const { return reinterpret_cast<uint64_t>(allocation.data()); }
  uint64_t end() const { return begin() + allocation.bytes(); }

  const Allocation& allocation;
  const Access access;
  GlobalTraffic traffic;             // but for the unique bytes, which `read` knows
  std::vector<uint8_t> read;         // by byte, 0 or 1: since the last reset
  std::vector<uint32_t> written_by;  // by byte: block + 1 of the writer in this launch, or 0; empty
                                     // while nothing is written
};

class GlobalMemory {
 public:
  void add(const Allocation& allocation, Access access);
  void remove(const Allocation& allocation);

  // The region at or closest to `address`; null where there is none at all.
  Region* closest(uint64_t address);
  Region& of(const Allocation& allocation);

  void start_launch();
  GlobalTraffic traffic() const;
  void reset_counters();

 private:
  std::map<uint64_t, Region> regions_;  // by the address of their first byte
  Region* last_ = nullptr;
};

GlobalTraffic traffic(const Region& region);

}  // namespace el_attention::emulator
