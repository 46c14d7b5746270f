// The parts of the emulated machine that outlive a block.
#pragma once

#include "access_log.h"
#include "global_memory.h"
#include "shared_memory.h"

namespace el_attention::emulator {

struct MachineState {
  GlobalMemory global;
  SharedMemory shared;
  AccessLog accesses;
  Counters counters;  // but for those of global memory
};

MachineState& machine_state();

}  // namespace el_attention::emulator
