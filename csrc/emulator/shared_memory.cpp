#include "shared_memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "../integers.h"
#include "sanitizers.h"

namespace el_attention::emulator {

namespace {

constexpr size_t kAlignment = 128;  // of arrays, as SharedArena::take promises
constexpr size_t kRedZone = 4 * kAlignment;
constexpr size_t kMostArrays = 64;

}  // namespace

SharedMemory::~SharedMemory() { release(); }

void SharedMemory::release() {
  sanitizers::unpoison(memory_, capacity_);
  std::free(memory_);
}

void SharedMemory::start_launch(size_t bytes) {
  release();
  arrays_.clear();
  bytes_ = bytes;
  capacity_ = round_up(bytes, kAlignment) + (kMostArrays + 1) * kRedZone;
  memory_ = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, capacity_));
  if (memory_ == nullptr) throw std::bad_alloc();
  sanitizers::poison(memory_, capacity_);
}

void SharedMemory::start_block() {
  for (const Array& array : arrays_) memset(array.data, 0xff, array.bytes);
}

unsigned char* SharedMemory::array(size_t offset, size_t bytes, const char* name,
                                   std::string& problem) {
  for (const Array& array : arrays_) {
    if (array.offset == offset && array.bytes == bytes && array.name == name) return array.data;
    if (array.offset + array.bytes <= offset || offset + bytes <= array.offset) continue;
    problem = "threads take different arrays of shared memory: '" + array.name + "' of " +
              std::to_string(array.bytes) + " bytes at " + std::to_string(array.offset) + " and '" +
              name + "' of " + std::to_string(bytes) + " bytes at " + std::to_string(offset);
    return nullptr;
  }
  if (offset + bytes > bytes_) {
    problem = std::string("shared array '") + name + "' ends at byte " +
              std::to_string(offset + bytes) + ", but the launch asked for " +
              std::to_string(bytes_) + " bytes of shared memory";
    return nullptr;
  }
  if (arrays_.size() == kMostArrays) {
    problem = "more than " + std::to_string(kMostArrays) + " arrays of shared memory";
    return nullptr;
  }
  unsigned char* const data = memory_ + offset + (arrays_.size() + 1) * kRedZone;
  sanitizers::unpoison(data, bytes);
  memset(data, 0xff, bytes);
  arrays_.push_back({offset, bytes, name, data});
  return data;
}

const SharedMemory::Array* SharedMemory::closest(uint64_t address) const {
  const Array* best = nullptr;
  uint64_t best_distance = UINT64_MAX;
  for (const Array& array : arrays_) {
    const auto begin = reinterpret_cast<uint64_t>(array.data), end = begin + array.bytes;
    const uint64_t distance = address < begin ? begin - address : address < end ? 0 : address - end;
    if (distance < best_distance) best = &array, best_distance = distance;
  }
  return best;
}

}  // namespace el_attention::emulator
