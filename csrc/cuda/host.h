// What the CUDA operators share on the host: torch's dtype, device and stream as launchers take
// them.
#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../checks.h"
#include "launch.h"
#include "report.h"

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

inline Query query_of(const at::Tensor& query) {
  return {query.const_data_ptr(), query.stride(0), query.stride(1), query.stride(2)};
}

// Raises what a kernel on the current device has reported before; every operator begins with it.
inline void raise_reported() {
  const std::string reported = take_report(report_word());
  TORCH_CHECK(reported.empty(), reported);
}

// Where a kernel reports a wrong value of `argument`.
inline Report report_of(Argument argument) {
  raise_reported();
  return {report_word(), argument};
}

inline Stream current_stream() { return c10::cuda::getCurrentCUDAStream(); }

}  // namespace el_attention::cuda
