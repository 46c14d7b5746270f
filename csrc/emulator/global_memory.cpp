#include "global_memory.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <new>
#include <utility>

#include "../integers.h"
#include "machine.h"
#include "sanitizers.h"

namespace el_attention::emulator {

namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kRedZone = 64 * 1024;  // on either side; untouched memory costs nothing

size_t padded(size_t bytes) { return round_up(bytes, kAlignment) + 2 * kRedZone; }

}  // namespace

Allocation::Allocation(std::string name, size_t bytes, Access access)
    : name_(std::move(name)), bytes_(bytes) {
  memory_ = std::aligned_alloc(kAlignment, padded(bytes));
  if (memory_ == nullptr) throw std::bad_alloc();
  data_ = static_cast<char*>(memory_) + kRedZone;
  memset(data_, 0xff, bytes);
  sanitizers::poison(memory_, kRedZone);
  const size_t end = kRedZone + bytes;
  sanitizers::poison(static_cast<char*>(memory_) + end, padded(bytes) - end);
  machine_state().global.add(*this, access);
}

Allocation::~Allocation() {
  machine_state().global.remove(*this);
  sanitizers::unpoison(memory_, padded(bytes_));
  std::free(memory_);
}

GlobalTraffic Allocation::traffic() const {
  return emulator::traffic(machine_state().global.of(*this));
}

Region::Region(const Allocation& allocation, Access access)
    : allocation(allocation), access(access), read(allocation.bytes()) {}

GlobalTraffic traffic(const Region& region) {
  GlobalTraffic total = region.traffic;
  uint64_t sector = UINT64_MAX;  // the last one counted
  for (size_t i = 0; i < region.read.size(); ++i) {
    if (region.read[i] == 0) continue;
    total.unique_read_bytes += 1;
    if (i / kSectorBytes == sector) continue;
    sector = i / kSectorBytes;
    total.unique_read_sectors += 1;
  }
  return total;
}

void GlobalMemory::add(const Allocation& allocation, Access access) {
  regions_.try_emplace(reinterpret_cast<uint64_t>(allocation.data()), allocation, access);
}

void GlobalMemory::remove(const Allocation& allocation) {
  regions_.erase(reinterpret_cast<uint64_t>(allocation.data()));
  last_ = nullptr;
}

Region& GlobalMemory::of(const Allocation& allocation) {
  return regions_.at(reinterpret_cast<uint64_t>(allocation.data()));
}

Region* GlobalMemory::closest(uint64_t address) {
  if (last_ != nullptr && address >= last_->begin() && address < last_->end()) return last_;
  const auto after = regions_.upper_bound(address);
  if (after == regions_.begin()) return after == regions_.end() ? nullptr : &after->second;
  Region& before = std::prev(after)->second;
  if (address < before.end()) return last_ = &before;
  if (after == regions_.end()) return &before;
  return address - before.end() <= after->second.begin() - address ? &before : &after->second;
}

void GlobalMemory::start_launch() {
  for (auto& [begin, region] : regions_) region.written_by.clear();
}

GlobalTraffic GlobalMemory::traffic() const {
  GlobalTraffic sum;
  for (const auto& [begin, region] : regions_) {
    const GlobalTraffic part = emulator::traffic(region);
    sum.read_bytes += part.read_bytes;
    sum.read_sectors += part.read_sectors;
    sum.unique_read_bytes += part.unique_read_bytes;
    sum.unique_read_sectors += part.unique_read_sectors;
    sum.written_bytes += part.written_bytes;
    sum.written_sectors += part.written_sectors;
  }
  return sum;
}

void GlobalMemory::reset_counters() {
  for (auto& [begin, region] : regions_) {
    region.traffic = {};
    std::fill(region.read.begin(), region.read.end(), 0);
  }
}

}  // namespace el_attention::emulator
