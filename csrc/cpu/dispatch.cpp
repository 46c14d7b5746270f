#include "dispatch.h"

#include <ATen/Version.h>

#include <string>

namespace el_attention::cpu {

const Kernels& kernels_for(c10::ScalarType dtype) {
#if defined(__x86_64__)
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return AVX512::kernels(dtype);
  if (capability == "AVX2") return AVX2::kernels(dtype);
#endif
  return DEFAULT::kernels(dtype);
}

}  // namespace el_attention::cpu
