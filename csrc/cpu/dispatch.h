// Chooses the kernels for the machine.
#pragma once

#include <string>

#include "attend.h"
#include "candidates.h"
#include "linear.h"
#include "narrow.h"

namespace el_attention::cpu {

// The instruction set that torch uses here, if there are kernels for it, or else the empty string:
// x86 without AVX2, where torch's own products are faster. The environment variable
// ATEN_CPU_CAPABILITY (default, avx2, avx512) lowers it as it does for torch itself.
const std::string& instruction_set();

// The kernels of one instruction set, by the dtypes and sizes of a call.
struct Kernels {
  const AttendKernels& (*attend)(c10::ScalarType dtype);
  const CandidateKernels& (*candidates)(c10::ScalarType dtype);
  const LinearKernel& (*linear)(const LinearParams& params);
  IsWidened (*is_widened)(c10::ScalarType narrow);
};

// Returns those for the machine.
//
// Throws c10::NotImplementedError where there are none.
const Kernels& kernels();

// Compiled from the same sources, kernels/*.cpp, with different flags; the namespaces are those
// that ATen gives to its own vectorized code.
#if defined(__x86_64__)
namespace AVX2 {
extern const Kernels kTable;
}  // namespace AVX2
namespace AVX512 {
extern const Kernels kTable;
}  // namespace AVX512
#else
namespace DEFAULT {
extern const Kernels kTable;
}  // namespace DEFAULT
#endif

}  // namespace el_attention::cpu
