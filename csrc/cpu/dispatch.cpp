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

}  // namespace

const std::string& instruction_set() {
  static const std::string name = find_instruction_set();
  return name;
}

const Kernels& kernels() {
#if defined(__x86_64__)
  TORCH_CHECK_NOT_IMPLEMENTED(!instruction_set().empty(),
                              "the CPU operators of el_attention: expected AVX2 or AVX512, got ",
                              at::get_cpu_capability());
  return instruction_set() == "AVX512" ? AVX512::kTable : AVX2::kTable;
#else
  return DEFAULT::kTable;
#endif
}

}  // namespace el_attention::cpu
