// The kernels of one instruction set, by dtype: what the table is made of.
#pragma once

#include "../dispatch.h"

namespace el_attention::cpu::CPU_CAPABILITY {

const AttendKernels& attend_kernels(c10::ScalarType dtype);
const CandidateKernels& candidate_kernels(c10::ScalarType dtype);
const LinearKernel& linear_kernel(const LinearParams& params);
IsWidened is_widened_kernel(c10::ScalarType narrow);

}  // namespace el_attention::cpu::CPU_CAPABILITY
