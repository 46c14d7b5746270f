// The tensors of a call of attention, as pointers and strides.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "rows.h"

namespace el_attention {

inline Strides strides_of(const at::Tensor& segment) {
  return {segment.stride(0), segment.stride(1), segment.stride(2)};
}

// The query and the rows of a call, checked before; keeps alive what had to be copied. The last
// dimension of the query is contiguous.
struct Call {
  Rows rows{};
  at::Tensor query, visible;
  std::vector<at::Tensor> columns;

  Call(const at::Tensor& query_in, at::TensorList keys, std::optional<at::TensorList> values,
       at::TensorList columns_in, const std::optional<at::Tensor>& visible_in,
       const std::optional<at::Tensor>& bias)
      : query(query_in.stride(3) == 1 ? query_in : query_in.contiguous()) {
    rows.segment_count = static_cast<int64_t>(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      columns.push_back(columns_in[i].contiguous());
      Segment& segment = rows.segments[i];
      segment.keys = keys[i].const_data_ptr();
      segment.key = strides_of(keys[i]);
      segment.columns = columns[i].const_data_ptr<int64_t>();
      segment.column_count = keys[i].size(1);
      segment.rows = keys[i].size(0);
      if (!values.has_value()) continue;
      segment.values = (*values)[i].const_data_ptr();
      segment.value = strides_of((*values)[i]);
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

}  // namespace el_attention
