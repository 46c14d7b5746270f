// What the CUDA operators share on the host: torch's dtype, device and stream as launchers take
// them.
#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../checks.h"
#include "launch.h"

namespace el_attention::cuda {

inline Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return Dtype::kFloat64;
    case at::kFloat:
      return Dtype::kFloat32;
    case at::kHalf:
      return Dtype::kFloat16;
    default:  // as the checks have made sure
      return Dtype::kBFloat16;
  }
}

inline Stream current_stream() { return c10::cuda::getCurrentCUDAStream(); }

}  // namespace el_attention::cuda
