#include <cstring>

#include "build.h"
#include "device.h"
#include "report.h"
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

#ifdef __CUDACC__

namespace {

__global__ void nothing() {}

}  // namespace

std::optional<std::string> unsupported_device(int device) {
  int before = 0;
  check_cuda(cudaGetDevice(&before), "cudaGetDevice");
  check_cuda(cudaSetDevice(device), "cudaSetDevice");
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, nothing);
  cudaGetLastError();
  check_cuda(cudaSetDevice(before), "cudaSetDevice");
  if (status == cudaSuccess) return std::nullopt;
  return cudaGetErrorString(status);
}

uint64_t* report_word() {
  static uint64_t* const words = [] {
    int devices = 0;
    check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    void* memory = nullptr;
    // The same address on the host and on all devices.
    check_cuda(cudaHostAlloc(&memory, devices * sizeof(uint64_t),
                             cudaHostAllocPortable | cudaHostAllocMapped),
               "cudaHostAlloc");
    return static_cast<uint64_t*>(std::memset(memory, 0, devices * sizeof(uint64_t)));
  }();
  return words + current_device_index();
}

#endif

}  // namespace el_attention::cuda
