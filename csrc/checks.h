// What every implementation of the operators asks of its arguments, on any device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "sizes.h"

namespace el_attention {

inline void check_dtype(const at::Tensor& tensor, const char* name) {
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16,
      name, ": expected dtype Double, Float, Half or BFloat16, got ", dtype);
}

// The dtype of scores, sums and lse: float32, or float64 for float64.
inline at::ScalarType accumulator(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline void check_like(const at::Tensor& tensor, const char* name, int64_t index, int64_t dim,
                       at::ScalarType dtype, const at::Device& device) {
  TORCH_CHECK(tensor.device() == device, name, "[", index, "]: expected device ", device, ", got ",
              tensor.device());
  TORCH_CHECK(tensor.scalar_type() == dtype, name, "[", index, "]: expected dtype ", dtype,
              ", got ", tensor.scalar_type());
  TORCH_CHECK(tensor.dim() == dim, name, "[", index, "]: expected ", dim, " dimensions, got ",
              tensor.sizes());
}

// A segment of the row axis, [R, C, K, width] of any row, column and head strides.
inline void check_segment(const at::Tensor& segment, const char* name, int64_t index,
                          const at::Tensor& query, int64_t kv_heads, int64_t width) {
  check_like(segment, name, index, 4, query.scalar_type(), query.device());
  TORCH_CHECK(segment.size(2) == kv_heads && segment.size(3) == width, name, "[", index,
              "]: expected [rows, columns, ", kv_heads, ", ", width, "], got ", segment.sizes());
  TORCH_CHECK(segment.stride(3) == 1 || width <= 1, name, "[", index,
              "]: expected a contiguous last dimension (stride 1), got strides ",
              segment.strides());
}

inline void check_visible(const std::optional<at::Tensor>& visible, const at::Tensor& query,
                          int64_t rows) {
  if (!visible.has_value()) return;
  const auto groups = query.size(0), beam = query.size(1);
  TORCH_CHECK(visible->scalar_type() == at::kBool, "visible: expected dtype ", at::kBool, ", got ",
              visible->scalar_type());
  TORCH_CHECK(visible->device() == query.device(), "visible: expected device ", query.device(),
              ", got ", visible->device());
  TORCH_CHECK(visible->dim() == 3 && visible->size(0) == groups && visible->size(2) == rows &&
                  (visible->size(1) == beam || visible->size(1) == 1),
              "visible: expected [", groups, ", 1 or ", beam, ", ", rows, "], got ",
              visible->sizes());
}

inline void check_bias(const std::optional<at::Tensor>& bias, const at::Tensor& query,
                       int64_t rows) {
  if (!bias.has_value()) return;
  TORCH_CHECK(bias->device() == query.device(), "bias: expected device ", query.device(), ", got ",
              bias->device());
  TORCH_CHECK(bias->scalar_type() == accumulator(query), "bias: expected dtype ",
              accumulator(query), ", got ", bias->scalar_type());
  TORCH_CHECK(bias->dim() == 3 && bias->size(0) == query.size(0) &&
                  bias->size(1) == query.size(2) && bias->size(2) == rows,
              "bias: expected [", query.size(0), ", ", query.size(2), ", ", rows, "], got ",
              bias->sizes());
  TORCH_CHECK(bias->stride(2) == 1 || rows <= 1,
              "bias: expected a contiguous last dimension (stride 1), got strides ",
              bias->strides());
}

// Checks query, keys and columns, which `attend` and `weights` share.
inline Sizes check_keys(const at::Tensor& query, at::TensorList keys, at::TensorList columns) {
  check_dtype(query, "query");
  TORCH_CHECK(query.dim() == 4 && query.size(3) >= 1,
              "query: expected [groups, beam, heads, width], width at least 1, got ",
              query.sizes());
  const auto segments = static_cast<int64_t>(keys.size());
  TORCH_CHECK(segments >= 1 && segments <= kMaxSegments, "keys: expected 1 to ", kMaxSegments,
              " segments, got ", segments);
  TORCH_CHECK(static_cast<int64_t>(columns.size()) == segments, "columns: expected ", segments,
              " tensors, one for each segment of keys, got ", columns.size());
  TORCH_CHECK(keys[0].dim() == 4, "keys[0]: expected [rows, columns, kv_heads, width], got ",
              keys[0].sizes());
  Sizes sizes{query.size(0), query.size(1), query.size(2), keys[0].size(2), query.size(3), 0, 0};
  TORCH_CHECK(sizes.kv_heads == 1 || sizes.kv_heads == sizes.heads, "keys: expected 1 or ",
              sizes.heads, " kv heads, got ", sizes.kv_heads);
  for (int64_t i = 0; i < segments; ++i) {
    check_segment(keys[i], "keys", i, query, sizes.kv_heads, sizes.width);
    check_like(columns[i], "columns", i, 1, at::kLong, query.device());
    TORCH_CHECK(columns[i].size(0) == sizes.groups, "columns[", i, "]: expected ", sizes.groups,
                " sentences, got ", columns[i].size(0));
    sizes.rows += keys[i].size(0);
  }
  return sizes;
}

// Checks all arguments of `attend`.
inline Sizes check_attend(const at::Tensor& query, at::TensorList keys, at::TensorList values,
                          at::TensorList columns, const std::optional<at::Tensor>& visible,
                          const std::optional<at::Tensor>& bias) {
  Sizes sizes = check_keys(query, keys, columns);
  TORCH_CHECK(values.size() == keys.size(), "values: expected ", keys.size(),
              " tensors, one for each segment of keys, got ", values.size());
  TORCH_CHECK(values[0].dim() == 4, "values[0]: expected [rows, columns, kv_heads, width], got ",
              values[0].sizes());
  sizes.value_width = values[0].size(3);
  for (size_t i = 0; i < values.size(); ++i) {
    check_segment(values[i], "values", static_cast<int64_t>(i), query, sizes.kv_heads,
                  sizes.value_width);
    TORCH_CHECK(values[i].size(0) == keys[i].size(0) && values[i].size(1) == keys[i].size(1),
                "values[", i, "]: expected ", keys[i].size(0), " rows and ", keys[i].size(1),
                " columns as in keys[", i, "], got ", values[i].sizes());
  }
  check_visible(visible, query, sizes.rows);
  check_bias(bias, query, sizes.rows);
  return sizes;
}

// Checks all arguments of `weights`.
inline Sizes check_weights(const at::Tensor& query, at::TensorList keys, at::TensorList columns,
                           const std::optional<at::Tensor>& visible,
                           const std::optional<at::Tensor>& bias, const at::Tensor& lse) {
  const Sizes sizes = check_keys(query, keys, columns);
  check_visible(visible, query, sizes.rows);
  check_bias(bias, query, sizes.rows);
  const auto dtype = accumulator(query);
  TORCH_CHECK(lse.device() == query.device(), "lse: expected device ", query.device(), ", got ",
              lse.device());
  TORCH_CHECK(lse.scalar_type() == dtype, "lse: expected dtype ", dtype, ", got ",
              lse.scalar_type());
  TORCH_CHECK(lse.sizes() == query.sizes().slice(0, 3), "lse: expected ", query.sizes().slice(0, 3),
              ", got ", lse.sizes());
  return sizes;
}

// Checks all arguments of `block_ngrams_`.
inline void check_ngrams(const at::Tensor& lprobs, const at::Tensor& tokens, int64_t size,
                         int64_t length, const std::optional<at::Tensor>& forced) {
  check_dtype(lprobs, "lprobs");
  TORCH_CHECK(lprobs.dim() == 2, "lprobs: expected [beams, vocabulary], got ", lprobs.sizes());
  TORCH_CHECK(tokens.device() == lprobs.device(), "tokens: expected device ", lprobs.device(),
              ", got ", tokens.device());
  TORCH_CHECK(tokens.scalar_type() == at::kLong, "tokens: expected dtype ", at::kLong, ", got ",
              tokens.scalar_type());
  TORCH_CHECK(tokens.dim() == 2 && tokens.size(0) == lprobs.size(0), "tokens: expected [",
              lprobs.size(0), ", length], got ", tokens.sizes());
  TORCH_CHECK(size >= 1, "size: expected at least 1, got ", size);
  TORCH_CHECK(length >= 0 && length <= tokens.size(1), "length: expected 0 to ", tokens.size(1),
              ", the columns of tokens, got ", length);
  if (!forced.has_value()) return;
  TORCH_CHECK(forced->device() == lprobs.device(), "forced: expected device ", lprobs.device(),
              ", got ", forced->device());
  TORCH_CHECK(forced->scalar_type() == at::kBool, "forced: expected dtype ", at::kBool, ", got ",
              forced->scalar_type());
  TORCH_CHECK(forced->dim() == 1 && forced->size(0) == lprobs.size(0), "forced: expected [",
              lprobs.size(0), "], got ", forced->sizes());
}

// Checks logits, which `log_sum_exp` and `top_candidates` share.
inline void check_logits(const at::Tensor& logits) {
  check_dtype(logits, "logits");
  TORCH_CHECK(logits.dim() == 2, "logits: expected [rows, vocabulary], got ", logits.sizes());
  TORCH_CHECK(logits.stride(1) == 1 || logits.size(1) <= 1,
              "logits: expected a contiguous last dimension (stride 1), got strides ",
              logits.strides());
}

// Checks all arguments of `top_candidates`.
inline void check_candidates(const at::Tensor& logits, const at::Tensor& lse,
                             const at::Tensor& scores, int64_t beam, int64_t k) {
  check_logits(logits);
  const auto check_row_numbers = [&](const at::Tensor& numbers, const char* name) {
    TORCH_CHECK(numbers.device() == logits.device(), name, ": expected device ", logits.device(),
                ", got ", numbers.device());
    TORCH_CHECK(numbers.scalar_type() == accumulator(logits), name, ": expected dtype ",
                accumulator(logits), ", got ", numbers.scalar_type());
    TORCH_CHECK(numbers.dim() == 1 && numbers.size(0) == logits.size(0), name, ": expected [",
                logits.size(0), "], got ", numbers.sizes());
  };
  check_row_numbers(lse, "lse");
  check_row_numbers(scores, "scores");
  TORCH_CHECK(beam >= 1 && logits.size(0) % beam == 0, "beam: expected a divisor of ",
              logits.size(0), ", the rows of logits, got ", beam);
  const int64_t candidates = beam * logits.size(1);
  TORCH_CHECK(candidates <= std::numeric_limits<int32_t>::max(),
              "logits: expected fewer than 2^31 candidates of a sentence, got ", candidates);
  TORCH_CHECK(k >= 1 && k <= std::min(candidates, kMaxCandidates), "k: expected 1 to ",
              std::min(candidates, kMaxCandidates), ", got ", k);
}

// Checks all arguments of `is_widened`.
inline void check_narrow(const at::Tensor& weight, const at::Tensor& narrow) {
  TORCH_CHECK(weight.scalar_type() == at::kFloat, "weight: expected dtype Float, got ",
              weight.scalar_type());
  TORCH_CHECK(narrow.scalar_type() == at::kHalf || narrow.scalar_type() == at::kBFloat16,
              "narrow: expected dtype Half or BFloat16, got ", narrow.scalar_type());
  TORCH_CHECK(narrow.device() == weight.device(), "narrow: expected device ", weight.device(),
              ", got ", narrow.device());
  TORCH_CHECK(narrow.sizes() == weight.sizes(), "narrow: expected ", weight.sizes(), ", got ",
              narrow.sizes());
}

// Checks all arguments of `linear`.
inline void check_linear(const at::Tensor& input, const at::Tensor& weight,
                         const std::optional<at::Tensor>& bias) {
  const auto dtype = input.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16,
      "input: expected dtype Double, Float, Half or BFloat16, got ", dtype);
  TORCH_CHECK(input.dim() == 2, "input: expected [rows, inputs], got ", input.sizes());
  const auto check_device = [&](const at::Tensor& tensor, const char* name) {
    TORCH_CHECK(tensor.device() == input.device(), name, ": expected device ", input.device(),
                ", got ", tensor.device());
  };
  check_device(weight, "weight");
  const auto stored = weight.scalar_type();
  const bool widened = dtype == at::kFloat && (stored == at::kHalf || stored == at::kBFloat16);
  TORCH_CHECK(stored == dtype || widened, "weight: expected dtype ", dtype,
              dtype == at::kFloat ? ", Half or BFloat16" : "", ", got ", stored);
  TORCH_CHECK(weight.dim() == 2 && weight.size(1) == input.size(1), "weight: expected [outputs, ",
              input.size(1), "], got ", weight.sizes());
  if (bias.has_value()) {
    check_device(*bias, "bias");
    TORCH_CHECK(bias->scalar_type() == dtype, "bias: expected dtype ", dtype, ", got ",
                bias->scalar_type());
    TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), "bias: expected [",
                weight.size(0), "], got ", bias->sizes());
  }
}

}  // namespace el_attention
