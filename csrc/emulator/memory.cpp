#include "memory.h"

#include <algorithm>
#include <string>

#include "block.h"
#include "machine.h"
#include "sanitizers.h"

namespace el_attention::emulator {

namespace {

// Where `address` is, seen from something of `bytes` bytes that begins at `begin`.
std::string describe_place(uint64_t address, const std::string& name, uint64_t begin,
                           size_t bytes) {
  const auto offset = static_cast<int64_t>(address - begin);
  return "offset " + std::to_string(offset) + " of '" + name + "', which has " +
         std::to_string(bytes) + " bytes";
}

// The checks return what is wrong with an access; nothing where it is right.

std::string check_aligned(uint64_t address, int bytes) {
  if (address % bytes == 0) return "";
  return "at an address that is " + std::to_string(address % bytes) + " more than a multiple of " +
         std::to_string(bytes);
}

// `value` is what a relaxed store writes, else null.
std::string check_write(Region& region, size_t offset, int bytes, const void* value) {
  if (region.access == Access::kReadOnly) return "is read-only";
  region.written_by.resize(region.allocation.bytes());
  const uint32_t self = uint32_t(current_block().number()) + 1;
  const auto* const present = static_cast<const unsigned char*>(region.allocation.data()) + offset;
  for (int i = 0; i < bytes; ++i) {
    uint32_t& writer = region.written_by[offset + i];
    if (value != nullptr) {
      const bool same = static_cast<const unsigned char*>(value)[i] == present[i];
      if (writer != 0 && !same) return "this launch has written with another value";
    } else if (writer != 0 && writer != self) {
      return "block number " + std::to_string(writer - 1) + " of this launch has written";
    }
    writer = self;
  }
  return "";
}

std::string check_read(Region& region, size_t offset, int bytes) {
  std::fill_n(region.read.begin() + offset, bytes, 1);
  if (region.written_by.empty()) return "";
  const auto begin = region.written_by.begin() + offset;
  const bool written = std::any_of(begin, begin + bytes, [](uint32_t by) { return by != 0; });
  return written ? "this launch has written" : "";
}

std::string check_global(const Kind& kind, uint64_t address, int bytes, const void* relaxed_value,
                         Site site) {
  const sanitizers::Ignore ignore;
  MachineState& machine = machine_state();
  Region* const region = machine.global.closest(address);
  if (region == nullptr) return "but no memory is allocated";
  const Allocation& allocation = region->allocation;
  if (address < region->begin() || address + bytes > region->end()) {
    return "at " + describe_place(address, allocation.name(), region->begin(), allocation.bytes());
  }
  std::string problem = check_aligned(address, bytes);
  if (!problem.empty()) return problem;
  const size_t offset = address - region->begin();
  problem = kind.writes ? check_write(*region, offset, bytes, relaxed_value)
                        : check_read(*region, offset, bytes);
  if (!problem.empty()) {
    return "at offset " + std::to_string(offset) + " of '" + allocation.name() + "', which " +
           problem;
  }
  machine.accesses.add(kind, site, bytes, position().thread % kLanes, address, &region->traffic);
  return "";
}

std::string check_shared(const Kind& kind, uint64_t address, int bytes, Site site) {
  const sanitizers::Ignore ignore;
  MachineState& machine = machine_state();
  const SharedMemory::Array* const array = machine.shared.closest(address);
  if (array == nullptr) return "but no shared array is taken";
  const auto begin = reinterpret_cast<uint64_t>(array->data);
  if (address < begin || address + bytes > begin + array->bytes) {
    return "at " + describe_place(address, array->name, begin, array->bytes);
  }
  std::string problem = check_aligned(address, bytes);
  if (!problem.empty()) return problem;
  machine.accesses.add(kind, site, bytes, position().thread % kLanes,
                       array->offset + (address - begin));
  return "";
}

void stop_at(const std::string& problem, const Kind& kind, int bytes, Site site) {
  if (problem.empty()) return;
  fail(std::string(kind.name) + (kind.writes ? " writes " : " reads ") + std::to_string(bytes) +
           " bytes " + problem,
       site);
}

void show_sanitizer(const Kind& kind, const void* address, int bytes) {
  kind.writes ? sanitizers::writes(const_cast<void*>(address), bytes)
              : sanitizers::reads(address, bytes);
}

// One access, as a GPU makes it: not byte by byte.
void move(void* to, const void* from, int bytes) {
  switch (bytes) {
    case 1:
      memcpy(to, from, 1);
      break;
    case 2:
      memcpy(to, from, 2);
      break;
    case 4:
      memcpy(to, from, 4);
      break;
    case 8:
      memcpy(to, from, 8);
      break;
    default:
      memcpy(to, from, 16);
      break;
  }
}

}  // namespace

void touch_global(const Kind& kind, const void* address, int bytes, Site site) {
  stop_at(check_global(kind, reinterpret_cast<uint64_t>(address), bytes, nullptr, site), kind,
          bytes, site);
  show_sanitizer(kind, address, bytes);
}

void touch_shared(const Kind& kind, const void* address, int bytes, Site site) {
  stop_at(check_shared(kind, reinterpret_cast<uint64_t>(address), bytes, site), kind, bytes, site);
  show_sanitizer(kind, address, bytes);
}

void load_global(void* to, const void* address, int bytes, Site site) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  touch_global(kLoadGlobal, address, bytes, site);
  move(to, address, bytes);
}

void store_global(void* address, const void* from, int bytes, Site site) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  touch_global(kStoreGlobal, address, bytes, site);
  move(address, from, bytes);
}

// No race to ThreadSanitizer, which is not told of it.
void store_global_relaxed(void* address, const void* from, int bytes, Site site) {
  stop_at(check_global(kStoreRelaxed, reinterpret_cast<uint64_t>(address), bytes, from, site),
          kStoreRelaxed, bytes, site);
  move(address, from, bytes);
}

void load_shared(void* to, const void* address, int bytes, Site site) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  touch_shared(kLoadShared, address, bytes, site);
  move(to, address, bytes);
}

void store_shared(void* address, const void* from, int bytes, Site site) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  touch_shared(kStoreShared, address, bytes, site);
  move(address, from, bytes);
}

unsigned char* shared_memory() { return machine_state().shared.data(); }

void* shared_array(size_t offset, size_t bytes, const char* name) {
  std::string problem;
  void* data = nullptr;
  {
    const sanitizers::Ignore ignore;
    data = machine_state().shared.array(offset, bytes, name, problem);
  }
  if (!problem.empty()) fail(problem);
  return data;
}

void copy_async(void* shared, const void* global, bool valid, Site site) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  if (valid) touch_global(kCopyFrom, global, kCopyBytes, site);
  touch_shared(kCopyTo, shared, kCopyBytes, site);
  current_thread().copies.add(shared, valid ? global : nullptr);
}

void commit_copies() { current_thread().copies.commit(); }

void wait_copies(int newest) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  current_thread().copies.wait(newest);
}

}  // namespace el_attention::emulator
