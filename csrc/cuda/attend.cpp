// `attend` and `weights` on CUDA: checks, memory and launches.

#include <ATen/Functions.h>
#include <torch/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "host.h"

namespace el_attention::cuda {
namespace {

Strides strides_of(const at::Tensor& piece) {
  return {piece.stride(0), piece.stride(1), piece.stride(2)};
}

// The rows of a call as the kernels read them; keeps alive what had to be copied.
struct Call {
  Rows rows{};
  at::Tensor query, visible;
  std::vector<at::Tensor> columns;

  Call(const at::Tensor& query_in, at::TensorList keys, const at::TensorList* values,
       at::TensorList columns_in, const std::optional<at::Tensor>& visible_in,
       const std::optional<at::Tensor>& bias)
      : query(query_in.contiguous()) {
    rows.piece_count = static_cast<int64_t>(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      columns.push_back(columns_in[i].contiguous());
      Piece& piece = rows.pieces[i];
      piece.keys = keys[i].const_data_ptr();
      piece.key = strides_of(keys[i]);
      piece.columns = columns[i].const_data_ptr<int64_t>();
      piece.column_count = keys[i].size(1);
      piece.rows = keys[i].size(0);
      if (values == nullptr) continue;
      piece.values = (*values)[i].const_data_ptr();
      piece.value = strides_of((*values)[i]);
    }
    if (bias.has_value()) {
      rows.bias = bias->const_data_ptr();
      rows.bias_group = bias->stride(0);
      rows.bias_head = bias->stride(1);
    }
    if (!visible_in.has_value()) return;
    visible = visible_in->stride(2) == 1 ? *visible_in : visible_in->contiguous();
    rows.visible = visible.const_data_ptr<bool>();
    rows.visible_group = visible.stride(0);
    rows.visible_beam = visible.size(1) == 1 ? 0 : visible.stride(1);
  }
};

std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& query, at::TensorList keys,
                                          at::TensorList values, at::TensorList columns,
                                          const std::optional<at::Tensor>& visible,
                                          const std::optional<at::Tensor>& bias) {
  const Sizes sizes = check_attend(query, keys, values, columns, visible, bias);
  const c10::cuda::CUDAGuard guard(query.device());
  const auto wide = query.options().dtype(accumulator(query));
  at::Tensor context =
      at::empty({sizes.groups, sizes.beam, sizes.heads, sizes.value_width}, query.options());
  at::Tensor lse = at::empty({sizes.groups, sizes.beam, sizes.heads}, wide);
  if (lse.numel() == 0) return {context, lse};
  if (sizes.rows == 0) {
    return {context.zero_(), lse.fill_(-std::numeric_limits<double>::infinity())};
  }

  const Call call(query, keys, &values, columns, visible, bias);
  const Dtype dtype = dtype_of(query);
  const AttendParams params{sizes, call.rows, call.query.const_data_ptr(), context.data_ptr(),
                            lse.data_ptr()};
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
  at::Tensor weights =
      at::empty({sizes.groups, sizes.beam, sizes.heads, sizes.rows}, lse.options());
  if (weights.numel() == 0) return weights;

  const Call call(query, keys, /*values=*/nullptr, columns, visible, bias);
  const at::Tensor base = lse.contiguous();
  const WeightsParams params{sizes, call.rows, call.query.const_data_ptr(), base.const_data_ptr(),
                             weights.data_ptr()};
  launch_weights(params, dtype_of(query), current_device(), current_stream());
  return weights;
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CUDA, m) {
  m.impl("attend", attend);
  m.impl("weights", weights);
}

}  // namespace el_attention::cuda
