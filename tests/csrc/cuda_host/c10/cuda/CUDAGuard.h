// Stands for torch's, which needs CUDA: makes a device the current one.
#pragma once

#include <c10/core/Device.h>

namespace c10::cuda {

struct CUDAGuard {
  inline static int current = 0;  // guards that are there

  explicit CUDAGuard(c10::Device) { ++current; }
  ~CUDAGuard() { --current; }
};

}  // namespace c10::cuda
