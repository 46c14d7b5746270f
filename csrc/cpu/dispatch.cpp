#include "dispatch.h"

#include <ATen/Version.h>

#include <string>

namespace el_attention::cpu {

namespace {

const std::string& capability() {
  static const std::string name = at::get_cpu_capability();
  return name;
}

}  // namespace

const AttendKernels& attend_kernels_for(c10::ScalarType dtype) {
#if defined(__x86_64__)
  if (capability() == "AVX512") return AVX512::attend_kernels(dtype);
  if (capability() == "AVX2") return AVX2::attend_kernels(dtype);
#endif
  return DEFAULT::attend_kernels(dtype);
}

const CandidateKernels& candidate_kernels_for(c10::ScalarType dtype) {
#if defined(__x86_64__)
  if (capability() == "AVX512") return AVX512::candidate_kernels(dtype);
  if (capability() == "AVX2") return AVX2::candidate_kernels(dtype);
#endif
  return DEFAULT::candidate_kernels(dtype);
}

const LinearKernel& linear_kernel_for(c10::ScalarType dtype, int64_t rows) {
#if defined(__x86_64__)
  if (capability() == "AVX512") return AVX512::linear_kernel(dtype, rows);
  if (capability() == "AVX2") return AVX2::linear_kernel(dtype, rows);
#endif
  return DEFAULT::linear_kernel(dtype, rows);
}

}  // namespace el_attention::cpu
