#include "launch.h"

#include <algorithm>
#include <iterator>

#include "block.h"
#include "machine.h"
#include "sanitizers.h"
#include "schedule.h"

namespace el_attention::emulator {

namespace {

// Shared memory as the CUDA programming guide's table of compute capabilities has it; a block may
// have 1 KB less than the multiprocessor.
constexpr size_t KB = 1024;
constexpr Machine kMachines[] = {
    {"t4", 75, 40, 64 * KB, 64 * KB},         {"a100", 80, 108, 163 * KB, 164 * KB},
    {"rtx3090", 86, 82, 99 * KB, 100 * KB},   {"rtx4090", 89, 128, 99 * KB, 100 * KB},
    {"h100", 90, 132, 227 * KB, 228 * KB},    {"b200", 100, 148, 227 * KB, 228 * KB},
    {"rtx5090", 120, 170, 99 * KB, 100 * KB},
};

const Machine* current_machine = &kMachines[1];

void check(const LaunchShape& shape) {
  const std::string kernel = std::string("kernel ") + shape.kernel + ": ";
  if (shape.threads < kLanes || shape.threads > kMostThreads || shape.threads % kLanes != 0) {
    throw Error(kernel + "expected a multiple of 32 threads up to " + std::to_string(kMostThreads) +
                ", got " + std::to_string(shape.threads));
  }
  if (shape.grid.x < 1 || shape.grid.y < 1 || shape.grid.z < 1 || shape.grid.y > 65535 ||
      shape.grid.z > 65535) {
    throw Error(kernel + "expected a grid of 1 to 2^31 - 1, 65535 and 65535 blocks, got " +
                std::to_string(shape.grid.x) + ", " + std::to_string(shape.grid.y) + ", " +
                std::to_string(shape.grid.z));
  }
  if (shape.shared_bytes > machine().shared_per_block) {
    throw Error(kernel + "asks for " + std::to_string(shape.shared_bytes) +
                " bytes of shared memory, and a block of " + machine().name + " may have " +
                std::to_string(machine().shared_per_block));
  }
}

}  // namespace

MachineState& machine_state() {
  static MachineState state;
  return state;
}

const Machine& machine() { return *current_machine; }

void set_machine(const std::string& name) {
  const auto found = std::find_if(std::begin(kMachines), std::end(kMachines),
                                  [&](const Machine& machine) { return machine.name == name; });
  if (found == std::end(kMachines)) {
    std::string known;
    for (const Machine& machine : kMachines) known += std::string(" ") + machine.name;
    throw Error("machine: expected one of" + known + ", got " + name);
  }
  current_machine = found;
}

void launch(const LaunchShape& shape, const std::function<void()>& kernel) {
  check(shape);
  const sanitizers::Ignore ignore;
  MachineState& state = machine_state();
  state.global.start_launch();
  state.shared.start_launch(shape.shared_bytes);
  Scheduler scheduler(schedule());
  const Index grid = shape.grid;
  try {
    for (const uint32_t number : scheduler.blocks(uint32_t(grid.x) * grid.y * grid.z)) {
      const Index index{int(number % grid.x), int(number / grid.x % grid.y),
                        int(number / grid.x / grid.y)};
      Block(shape, index, int(number), scheduler, kernel).run();
    }
  } catch (const Error&) {
    abandon_threads();
    throw;
  }
}

Counters counters() {
  Counters total = machine_state().counters;
  total.global = machine_state().global.traffic();
  return total;
}

std::vector<SharedSite> shared_sites() { return machine_state().accesses.shared_sites(); }

void reset_counters() {
  machine_state().counters = {};
  machine_state().accesses.reset();
  machine_state().global.reset_counters();
}

}  // namespace el_attention::emulator
