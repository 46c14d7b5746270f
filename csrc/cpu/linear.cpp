// `linear` on the CPU: checks and threads. The arithmetic is in kernels/linear.cpp.

#include "linear.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../checks.h"
#include "../integers.h"
#include "dispatch.h"

namespace el_attention::cpu {
namespace {

// A matrix whose rows lie one after another, each of them contiguous.
at::Tensor by_row(const at::Tensor& matrix) {
  return matrix.stride(1) == 1 || matrix.size(1) <= 1 ? matrix : matrix.contiguous();
}

// A weight as a kernel for so many rows reads it: few rows take one that lies input by input, too.
at::Tensor readable(const at::Tensor& weight, int64_t rows) {
  return rows <= kFewRows && weight.stride(0) == 1 ? weight : by_row(weight);
}

at::Tensor linear(const at::Tensor& input, const at::Tensor& weight,
                  const std::optional<at::Tensor>& bias) {
  check_linear(input, weight, bias);
  const at::Tensor x = by_row(input), w = readable(weight, input.size(0));
  const at::Tensor b = bias.has_value() ? bias->contiguous() : at::Tensor();
  at::Tensor output = at::empty({x.size(0), w.size(0)}, x.options());
  const LinearParams params{x.scalar_type(),
                            w.scalar_type(),
                            x.const_data_ptr(),
                            w.const_data_ptr(),
                            b.defined() ? b.const_data_ptr() : nullptr,
                            output.data_ptr(),
                            x.size(0),
                            x.size(1),
                            w.size(0),
                            x.stride(0),
                            w.stride(0),
                            w.size(1) <= 1 ? 1 : w.stride(1)};
  if (output.numel() == 0) return output;

  const LinearKernel& kernel = kernels().linear(params);
  const int64_t groups = divide_up(params.outputs, kernel.group);
  const auto accumulate = params.dtype == at::kDouble ? at::kDouble : at::kFloat;
  at::parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
    const at::Tensor scratch =
        at::empty({kernel.scratch(params, last - first)}, x.options().dtype(accumulate));
    kernel.run(params, first, last, scratch.data_ptr());
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CPU, m) { m.impl("linear", linear); }

}  // namespace el_attention::cpu
