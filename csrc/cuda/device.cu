#include "device.h"
#include "runtime.cuh"

namespace el_attention::cuda {

Device current_device() {
#ifdef __CUDACC__
  return {10 * device_attribute(cudaDevAttrComputeCapabilityMajor) +
              device_attribute(cudaDevAttrComputeCapabilityMinor),
          device_attribute(cudaDevAttrMultiProcessorCount),
          size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
          size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor))};
#else
  const emulator::Machine& machine = emulator::machine();
  return {machine.arch, machine.multiprocessors, machine.shared_per_block,
          machine.shared_per_multiprocessor};
#endif
}

}  // namespace el_attention::cuda
