// Host primitives: what a launcher asks of the machine. As primitives.cuh, with two bodies.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

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

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

#endif

// kernel<<<grid, threads, shared_bytes, stream>>>(parameters...). Throws std::runtime_error where
// the kernel cannot be started, or, in the emulator, does something wrong.
template <typename... Parameters, typename... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
#ifdef __CUDACC__
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shape.shared_bytes > kWithoutAsking) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               shape.kernel);
  }
  kernel<<<dim3(shape.grid[0], shape.grid[1], shape.grid[2]), shape.threads, shape.shared_bytes,
           shape.stream>>>(arguments...);
  check_cuda(cudaGetLastError(), shape.kernel);
#else
  emulator::launch({shape.kernel,
                    {int(shape.grid[0]), int(shape.grid[1]), int(shape.grid[2])},
                    shape.threads,
                    shape.shared_bytes},
                   [&] { kernel(arguments...); });
#endif
}

}  // namespace el_attention::cuda
