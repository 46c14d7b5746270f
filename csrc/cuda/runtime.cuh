// Host primitives: what a launcher asks of the machine. As primitives.cuh, with two bodies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "device.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "../emulator/launch.h"
#endif

namespace el_attention::cuda {

// Shape of a launch.
struct Launch {
  const char* kernel;   // name, for messages
  unsigned grid[3];     // blocks
  int threads;          // of a block, a multiple of 32
  size_t shared_bytes;  // dynamic shared memory, as SharedArena::sizing() counts it
  Stream stream;
};

#ifdef __CUDACC__

// Throws where a call has failed. The error is cleared: torch would raise it once more, from
// whatever it does next.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

inline int current_device_index() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, current_device_index()),
             "cudaDeviceGetAttribute");
  return value;
}

// Lets the blocks of a kernel have all the shared memory that a block may ask for, and the device
// give it as much of its L1 as it can: once for each kernel and device, whatever threads launch it.
inline void prepare(const void* kernel, const char* name) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> prepared;
  const std::pair<const void*, int> key{kernel, current_device_index()};
  const std::lock_guard<std::mutex> lock(mutex);
  if (prepared.count(key) != 0) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
             name);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             name);
  prepared.insert(key);
}

#endif

// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...). Throws std::runtime_error where
// the kernel cannot be started, or, in the emulator, does something wrong.
template <typename... Parameters>
void launch(const Launch& shape, void (*kernel)(Parameters...),
            const std::common_type_t<Parameters>&... arguments) {
#ifdef __CUDACC__
  const void* const function = reinterpret_cast<const void*>(kernel);
  prepare(function, shape.kernel);
  std::array<void*, sizeof...(arguments)> pointers{
      const_cast<void*>(static_cast<const void*>(&arguments))...};
  check_cuda(
      cudaLaunchKernel(function, dim3(shape.grid[0], shape.grid[1], shape.grid[2]),
                       dim3(shape.threads), pointers.data(), shape.shared_bytes, shape.stream),
      shape.kernel);
#else
  emulator::launch({shape.kernel,
                    {int(shape.grid[0]), int(shape.grid[1]), int(shape.grid[2])},
                    shape.threads,
                    shape.shared_bytes},
                   [&] { kernel(arguments...); });
#endif
}

}  // namespace el_attention::cuda
