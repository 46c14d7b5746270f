// What a launcher and a test ask of the emulated machine: the GPU it stands for, the schedule, the
// launch, and the memory that kernels may touch. One operating-system thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "counters.h"
#include "device.h"

namespace el_attention::emulator {

// Something that a kernel did wrong: says what, where, and in which block, warp and lanes.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// ---- Machine ------------------------------------------------------------------------------------

struct Machine {
  const char* name;
  int arch;                          // compute capability, 10 * major + minor
  int multiprocessors;               // SMs
  size_t shared_per_block;           // bytes
  size_t shared_per_multiprocessor;  // bytes
};

// The GPU that launches run on; "a100" until another is chosen.
const Machine& machine();

// Chooses one of t4, a100, rtx3090, rtx4090, h100, b200, rtx5090. Throws Error for another name.
void set_machine(const std::string& name);

// ---- Schedule -----------------------------------------------------------------------------------

// The order in which blocks, warps and lanes run where the program leaves it open. A correct kernel
// gives the same result under each.
struct Schedule {
  enum class Order {
    kAscending,   // the first warp as far as it gets, lane 0 first
    kDescending,  // the last block first, the last warp as far as it gets, lane 31 first
    kRoundRobin,  // warps in turn, each up to its next wait
    kRandom       // blocks, warps and lanes in an order drawn from the seed
  };
  Order order = Order::kAscending;
  uint64_t seed = 0;
};

// "ascending", "descending", "round-robin" or "random:<seed>". Throws Error for anything else.
Schedule parse_schedule(const std::string& text);
void set_schedule(const Schedule& schedule);

// ---- Launch -------------------------------------------------------------------------------------

struct LaunchShape {
  const char* kernel;   // name, for messages
  Index grid;           // blocks
  int threads;          // of a block, a multiple of 32
  size_t shared_bytes;  // dynamic shared memory
};

// Runs `kernel` in every thread of every block. Throws Error for a shape that the machine refuses
// and for what a kernel does wrong; then the objects on the stacks of its threads are not
// destroyed.
void launch(const LaunchShape& shape, const std::function<void()>& kernel);

// ---- Global memory ------------------------------------------------------------------------------

enum class Access { kReadOnly, kReadWrite };

// Global memory that kernels may touch, and no other: 256-byte aligned, between red zones, filled
// with 0xff, which is NaN in every floating-point type.
class Allocation {
 public:
  Allocation(std::string name, size_t bytes, Access access);
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const std::string& name() const { return name_; }

  // What launches did to it since the last reset_counters().
  GlobalTraffic traffic() const;

 private:
  std::string name_;
  size_t bytes_;
  void* memory_;
  void* data_;
};

}  // namespace el_attention::emulator
