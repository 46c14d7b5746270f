// Chooses the kernels for the machine.
#pragma once

#include "kernels.h"
#include "linear.h"

namespace el_attention::cpu {

// Returns the kernels of the instruction set that torch uses here; the environment variable
// ATEN_CPU_CAPABILITY (default, avx2, avx512) lowers it as it does for torch itself.
const Kernels& kernels_for(c10::ScalarType dtype);
const LinearKernel& linear_kernel_for(c10::ScalarType dtype, int64_t rows);

}  // namespace el_attention::cpu
