// A step of a decoder layer in one call: what decoder/layer.py does operator by operator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace el_attention::cpu {

// x W^T + b
struct Affine {
  at::Tensor weight;  // [O, I]; of float32 layers also in 16 bits, which are widened
  std::optional<at::Tensor> bias;
  std::optional<at::Tensor> narrow;  // the values of a float32 weight in 16 bits

  at::Tensor operator()(const at::Tensor& x) const;  // [N, I] -> [N, O]
};

// A layer normalization, or one by the root mean square.
struct Norm {
  int64_t width;
  std::optional<at::Tensor> weight, bias;
  double eps;
  bool rms;

  at::Tensor operator()(const at::Tensor& x) const;
};

struct Attention {
  Affine query, key, value, output;
  int64_t heads;
  double scale;
  bool expands;  // the expanded query over states, else keys and values of every head
  Norm norm;
};

struct FeedForward {
  Affine up, down;
  std::optional<Affine> gate;
  std::function<at::Tensor(const at::Tensor&)> activation;
  Norm norm;
};

// Keys and values of the segments of a cache, [rows, columns, kv_heads, width] each; the very same
// tensor where the states are both.
using Segments = std::vector<std::pair<at::Tensor, at::Tensor>>;

// The rows that a step reads: how many of each segment, and the columns of the sentences.
struct View {
  std::vector<std::tuple<int64_t, at::Tensor>> segments;
  std::optional<at::Tensor> visible;  // bool [G, B or 1, U]
};

// What all layers share in a step.
struct StepRows {
  int64_t beam;
  // Where the new rows go: the segment, places in it flattened to [rows x columns], and which of
  // the step's rows go there (all in order where there is none).
  std::vector<std::tuple<int64_t, at::Tensor, std::optional<at::Tensor>>> mappings;
  View own, source;
};

struct DecoderLayer {
  bool pre_norm;
  Attention self_attn;
  std::optional<Attention> cross_attn;
  FeedForward feed_forward;

  // Applies the layer to the newest token of every beam, writes its row into `rows` and returns
  // [G * B, C]. Has no derivative: not to be called where `derivatives_are_on`.
  //
  // x       [G * B, C]
  // rows    the cache of self-attention
  // bias    [G, H, U], added to the scores of its rows, or none
  // source  the cache of encoder-decoder attention; empty without one
  at::Tensor step(at::Tensor x, const StepRows& step, const Segments& rows,
                  const std::optional<at::Tensor>& bias, const Segments& source) const;
};

}  // namespace el_attention::cpu
