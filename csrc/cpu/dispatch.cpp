#include "dispatch.h"

#include <ATen/Version.h>
#include <c10/util/Exception.h>

namespace el_attention::cpu {

namespace {

std::string find_instruction_set() {
#if defined(__x86_64__)
  const std::string torchs = at::get_cpu_capability();
  return torchs == "AVX512" || torchs == "AVX2" ? torchs : "";
#else
  return "DEFAULT";
#endif
}

#if defined(__x86_64__)
bool has_avx512() {
  TORCH_CHECK_NOT_IMPLEMENTED(!instruction_set().empty(),
                              "the CPU operators of el_attention: expected AVX2 or AVX512, got ",
                              at::get_cpu_capability());
  return instruction_set() == "AVX512";
}
#endif

}  // namespace

const std::string& instruction_set() {
  static const std::string name = find_instruction_set();
  return name;
}

#if defined(__x86_64__)
const AttendKernels& attend_kernels_for(c10::ScalarType dtype) {
  return has_avx512() ? AVX512::attend_kernels(dtype) : AVX2::attend_kernels(dtype);
}

const CandidateKernels& candidate_kernels_for(c10::ScalarType dtype) {
  return has_avx512() ? AVX512::candidate_kernels(dtype) : AVX2::candidate_kernels(dtype);
}

const LinearKernel& linear_kernel_for(c10::ScalarType dtype, int64_t rows) {
  return has_avx512() ? AVX512::linear_kernel(dtype, rows) : AVX2::linear_kernel(dtype, rows);
}
#else
const AttendKernels& attend_kernels_for(c10::ScalarType dtype) {
  return DEFAULT::attend_kernels(dtype);
}

const CandidateKernels& candidate_kernels_for(c10::ScalarType dtype) {
  return DEFAULT::candidate_kernels(dtype);
}

const LinearKernel& linear_kernel_for(c10::ScalarType dtype, int64_t rows) {
  return DEFAULT::linear_kernel(dtype, rows);
}
#endif

}  // namespace el_attention::cpu
