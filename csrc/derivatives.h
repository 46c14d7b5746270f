// Whether derivatives may be asked for.
#pragma once

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/forward_grad.h>

namespace el_attention {

// True where gradients are on or a level of forward mode is open: not in a step of a generation.
inline bool derivatives_are_on() {
  return at::GradMode::is_enabled() ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr;
}

}  // namespace el_attention
