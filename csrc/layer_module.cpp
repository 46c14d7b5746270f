// Reads the specs of decoder/specs.py and what state/ says of a step into the structs of a layer.
#include "layer_module.h"

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <utility>

#include "cpu/layer.h"
#include "derivatives.h"

namespace el_attention {
namespace {

namespace py = pybind11;
using cpu::DecoderLayer;
using cpu::Segments;
using cpu::StepRows;
using cpu::View;
using OptionalTensor = std::optional<at::Tensor>;

template <typename T>
T field(const py::handle& spec, const char* name) {
  return spec.attr(name).cast<T>();
}

cpu::Affine affine_of(const py::handle& spec) {
  return {field<at::Tensor>(spec, "weight"), field<OptionalTensor>(spec, "bias"),
          field<OptionalTensor>(spec, "narrow")};
}

cpu::Norm norm_of(const py::handle& spec) {
  return {field<int64_t>(spec, "width"), field<OptionalTensor>(spec, "weight"),
          field<OptionalTensor>(spec, "bias"), field<double>(spec, "eps"),
          field<bool>(spec, "rms")};
}

cpu::Attention attention_of(const py::handle& spec, const py::handle& norm, bool expands) {
  return {affine_of(spec.attr("query")),
          affine_of(spec.attr("key")),
          affine_of(spec.attr("value")),
          affine_of(spec.attr("output")),
          field<int64_t>(spec, "heads"),
          field<double>(spec, "scale"),
          expands,
          norm_of(norm)};
}

cpu::FeedForward feed_forward_of(const py::handle& spec, const py::handle& norm) {
  std::optional<cpu::Affine> gate;
  if (!spec.attr("gate").is_none()) gate = affine_of(spec.attr("gate"));
  const auto activation = [function = field<py::object>(spec, "activation")](const at::Tensor& x) {
    const py::gil_scoped_acquire gil;
    return function(x).cast<at::Tensor>();
  };
  return {affine_of(spec.attr("up")), affine_of(spec.attr("down")), gate, activation,
          norm_of(norm)};
}

std::unique_ptr<DecoderLayer> layer_of(const py::object& spec, bool self_expands,
                                       bool cross_expands) {
  std::optional<cpu::Attention> cross_attn;
  if (!spec.attr("cross_attn").is_none()) {
    cross_attn = attention_of(spec.attr("cross_attn"), spec.attr("cross_attn_norm"), cross_expands);
  }
  return std::make_unique<DecoderLayer>(DecoderLayer{
      field<bool>(spec, "pre_norm"),
      attention_of(spec.attr("self_attn"), spec.attr("self_attn_norm"), self_expands), cross_attn,
      feed_forward_of(spec.attr("feed_forward"), spec.attr("feed_forward_norm"))});
}

View view_of(const py::handle& view) {
  return {field<decltype(View::segments)>(view, "segments"),
          field<OptionalTensor>(view, "visible")};
}

std::unique_ptr<StepRows> step_rows_of(int64_t beam, const py::iterable& mappings,
                                       const py::object& own, const py::object& source) {
  auto step = std::make_unique<StepRows>(StepRows{beam, {}, view_of(own), view_of(source)});
  for (const py::handle mapping : mappings) {
    step->mappings.emplace_back(field<int64_t>(mapping, "segment"),
                                field<at::Tensor>(mapping, "slots"),
                                field<OptionalTensor>(mapping, "source"));
  }
  return step;
}

}  // namespace

void add_layer(py::module_& module) {
  module.def("derivatives_are_on", &derivatives_are_on);
  py::class_<StepRows>(module, "StepRows").def(py::init(&step_rows_of));
  py::class_<DecoderLayer>(module, "DecoderLayer")
      .def(py::init(&layer_of))
      .def("step", &DecoderLayer::step, py::call_guard<py::gil_scoped_release>());
}

}  // namespace el_attention
