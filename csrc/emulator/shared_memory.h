// The shared memory of the running block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace el_attention::emulator {

// Arrays lie further apart than on a GPU, with red zones between them; offsets are those of a GPU.
class SharedMemory {
 public:
  struct Array {
    size_t offset;  // in the shared memory of a GPU
    size_t bytes;
    std::string name;
    unsigned char* data;
  };

  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Forgets the arrays; `bytes` is what a launch asked for.
  void start_launch(size_t bytes);

  // Fills all of it with NaN.
  void start_block();

  // The array at `offset`. Null, with the `problem`, where it does not fit into what the launch
  // asked for or is not what another thread took there.
  unsigned char* array(size_t offset, size_t bytes, const char* name, std::string& problem);

  // The array at or closest to `address`; null where there is none at all.
  const Array* closest(uint64_t address) const;

  unsigned char* data() { return memory_; }

 private:
  void release();

  unsigned char* memory_ = nullptr;
  size_t capacity_ = 0;
  size_t bytes_ = 0;
  std::vector<Array> arrays_;
};

}  // namespace el_attention::emulator
