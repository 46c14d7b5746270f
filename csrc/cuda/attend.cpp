// `attend` and `weights` on CUDA: checks, memory and launches.

#include <ATen/Functions.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "../call.h"
#include "host.h"

namespace el_attention::cuda {
namespace {

std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& query, at::TensorList keys,
                                          at::TensorList values, at::TensorList columns,
                                          const std::optional<at::Tensor>& visible,
                                          const std::optional<at::Tensor>& bias) {
  const Sizes sizes = check_attend(query, keys, values, columns, visible, bias);
  const c10::cuda::CUDAGuard guard(query.device());
  const Report report = report_of(Argument::kAttendColumns);
  const auto wide = query.options().dtype(accumulator(query));
  at::Tensor context =
      at::empty({sizes.groups, sizes.beam, sizes.heads, sizes.value_width}, query.options());
  at::Tensor lse = at::empty({sizes.groups, sizes.beam, sizes.heads}, wide);
  if (lse.numel() == 0) return {context, lse};
  if (sizes.rows == 0) {
    return {context.zero_(), lse.fill_(-std::numeric_limits<double>::infinity())};
  }

  const Call call(query, keys, values, columns, visible, bias);
  const Dtype dtype = dtype_of(query);
  const AttendParams params{sizes,          call.rows, query_of(call.query), context.data_ptr(),
                            lse.data_ptr(), report};
  const AttendPlan plan = plan_attend(params, dtype, current_device());
  const at::Tensor scratch =
      at::empty({static_cast<int64_t>(plan.scratch_bytes)}, query.options().dtype(at::kByte));
  launch_attend(plan, params, dtype, scratch.data_ptr(), current_stream());
  return {context, lse};
}

at::Tensor weights(const at::Tensor& query, at::TensorList keys, at::TensorList columns,
                   const std::optional<at::Tensor>& visible, const std::optional<at::Tensor>& bias,
                   const at::Tensor& lse) {
  const Sizes sizes = check_weights(query, keys, columns, visible, bias, lse);
  const c10::cuda::CUDAGuard guard(query.device());
  const Report report = report_of(Argument::kWeightsColumns);
  at::Tensor weights =
      at::empty({sizes.groups, sizes.beam, sizes.heads, sizes.rows}, lse.options());
  if (weights.numel() == 0) return weights;

  const Call call(query, keys, /*values=*/std::nullopt, columns, visible, bias);
  const at::Tensor base = lse.contiguous();
  const WeightsParams params{
      sizes, call.rows, query_of(call.query), base.const_data_ptr(), weights.data_ptr(), report};
  launch_weights(params, dtype_of(query), current_device(), current_stream());
  return weights;
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CUDA, m) {
  m.impl("attend", attend);
  m.impl("weights", weights);
}

}  // namespace el_attention::cuda
