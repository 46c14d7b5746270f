// The table of kernels of one instruction set.

#include "table.h"

namespace el_attention::cpu::CPU_CAPABILITY {

const Kernels kTable = {attend_kernels, candidate_kernels, linear_kernel, is_widened_kernel};

}  // namespace el_attention::cpu::CPU_CAPABILITY
