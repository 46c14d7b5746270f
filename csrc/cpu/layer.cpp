// A step of a decoder layer: the same operators in the same order as decoder/layer.py, and so the
// same bits.

#include "layer.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <limits>

#include "linear.h"

namespace el_attention::cpu {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor own_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("el_attention::linear", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&)>();
  return op.call(x, weight, bias);
}

std::tuple<at::Tensor, at::Tensor> own_attend(const at::Tensor& query, at::TensorList keys,
                                              at::TensorList values, at::TensorList columns,
                                              const OptionalTensor& visible,
                                              const OptionalTensor& bias) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("el_attention::attend", "")
                             .typed<std::tuple<at::Tensor, at::Tensor>(
                                 const at::Tensor&, at::TensorList, at::TensorList, at::TensorList,
                                 const OptionalTensor&, const OptionalTensor&)>();
  return op.call(query, keys, values, columns, visible, bias);
}

// The weights of every head, [H, head width, W].
at::Tensor by_head(const at::Tensor& weight, int64_t heads) {
  return weight.view({heads, -1, weight.size(1)});
}

// Keys and values of the states x [N, C], [N, kv_heads, W] each.
std::pair<at::Tensor, at::Tensor> kept_of(const Attention& attention, const at::Tensor& x) {
  if (attention.expands) {
    const at::Tensor states = x.unsqueeze(1);
    return {states, states};
  }
  const auto by_head = [&](const at::Tensor& all) {
    return all.view({x.size(0), attention.heads, -1});
  };
  return {by_head(attention.key(x)), by_head(attention.value(x))};
}

void write_rows(const StepRows& step, const std::pair<at::Tensor, at::Tensor>& kept,
                const Segments& rows) {
  for (const auto& [index, slots, source] : step.mappings) {
    const auto write = [&, &slots = slots, &source = source](const at::Tensor& segment,
                                                             const at::Tensor& states) {
      segment.view({-1, segment.size(2), segment.size(3)})
          .index_copy_(0, slots, source.has_value() ? states.index_select(0, *source) : states);
    };
    const auto& [keys, values] = rows.at(index);
    write(keys, kept.first);
    if (!values.is_same(keys)) write(values, kept.second);
  }
}

// The outputs of the heads, [G, B, H, head width], of the normalized states x [G * B, C].
at::Tensor read_rows(const Attention& attention, const at::Tensor& x, int64_t beam,
                     const View& view, const Segments& rows, const OptionalTensor& bias) {
  at::Tensor query =
      (attention.query(x) * attention.scale)
          .view({-1, beam, attention.heads, attention.query.weight.size(0) / attention.heads});
  if (attention.expands) {
    query = at::einsum("...hk,hkw->...hw", {query, by_head(attention.key.weight, attention.heads)});
  }
  std::vector<at::Tensor> keys, values, columns;
  const auto first = [](const at::Tensor& segment, int64_t count) {
    return count == segment.size(0) ? segment : segment.slice(0, 0, count);
  };
  for (size_t i = 0; i < view.segments.size(); ++i) {
    const auto& [count, column] = view.segments[i];
    keys.push_back(first(rows.at(i).first, count));
    const bool same = rows[i].second.is_same(rows[i].first);
    values.push_back(same ? keys.back() : first(rows[i].second, count));
    columns.push_back(column);
  }
  const auto [context, lse] = own_attend(query, keys, values, columns, view.visible, bias);
  if (!attention.expands) return context;
  const at::Tensor heads =
      at::einsum("...hw,hkw->...hk", {context, by_head(attention.value.weight, attention.heads)});
  if (!attention.value.bias.has_value()) return heads;
  const at::Tensor value_bias = attention.value.bias->view({attention.heads, -1});
  const bool has_rows = std::any_of(keys.begin(), keys.end(),
                                    [](const at::Tensor& segment) { return segment.size(0) > 0; });
  if (has_rows && !view.visible.has_value() && !bias.has_value()) return heads + value_bias;
  // 0 where a query sees nothing.
  const at::Tensor mass = lse.ne(-std::numeric_limits<double>::infinity()).to(lse.scalar_type());
  return heads + mass.unsqueeze(-1).to(value_bias.scalar_type()) * value_bias;
}

}  // namespace

at::Tensor Affine::operator()(const at::Tensor& x) const {
  const int64_t rows = x.size(0);
  const bool few = rows <= kFewRows;
  const auto stored = weight.scalar_type();
  const bool is_narrow =
      x.scalar_type() == at::kFloat && (stored == at::kHalf || stored == at::kBFloat16);
  // As `linear` of el_attention/ops/operators.py chooses.
  const bool runs = rows <= kMostRows && (x.scalar_type() == stored || is_narrow) &&
                    (weight.stride(1) == 1 || (weight.stride(0) == 1 && few));
  if (!runs) return at::linear(x, is_narrow ? weight.to(at::kFloat) : weight, bias);
  return own_linear(x, few && narrow.has_value() ? *narrow : weight, bias);
}

at::Tensor Norm::operator()(const at::Tensor& x) const {
  if (rms) return at::rms_norm(x, {width}, weight, eps);
  return at::layer_norm(x, {width}, weight, bias, eps);
}

at::Tensor DecoderLayer::step(at::Tensor x, const StepRows& step, const Segments& rows,
                              const OptionalTensor& bias, const Segments& source) const {
  const at::AutoDispatchBelowAutograd no_derivative;
  const auto before = [&](const Norm& norm) { return pre_norm ? norm(x) : x; };
  const auto after = [&](const at::Tensor& output, const Norm& norm) {
    const at::Tensor sum = x + output;
    return pre_norm ? sum : norm(sum);
  };
  const auto joined = [&](const at::Tensor& heads) { return heads.reshape({x.size(0), -1}); };

  const at::Tensor states = before(self_attn.norm);
  write_rows(step, kept_of(self_attn, states), rows);
  const at::Tensor heads = read_rows(self_attn, states, step.beam, step.own, rows, bias);
  x = after(self_attn.output(joined(heads)), self_attn.norm);
  if (cross_attn.has_value()) {
    const at::Tensor read =
        read_rows(*cross_attn, before(cross_attn->norm), step.beam, step.source, source, {});
    x = after(cross_attn->output(joined(read)), cross_attn->norm);
  }
  const at::Tensor input = before(feed_forward.norm);
  at::Tensor inner = feed_forward.activation(
      feed_forward.gate.has_value() ? (*feed_forward.gate)(input) : feed_forward.up(input));
  if (feed_forward.gate.has_value()) inner = inner * feed_forward.up(input);
  return after(feed_forward.down(inner), feed_forward.norm);
}

}  // namespace el_attention::cpu
