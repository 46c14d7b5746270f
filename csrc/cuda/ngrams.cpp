// `block_ngrams_` on CUDA: checks, memory and launch.

#include <ATen/Functions.h>
#include <torch/library.h>

#include "host.h"

namespace el_attention::cuda {
namespace {

void block_ngrams_(at::Tensor lprobs, const at::Tensor& tokens, int64_t size, int64_t length,
                   const std::optional<at::Tensor>& forced) {
  check_ngrams(lprobs, tokens, size, length, forced);
  const c10::cuda::CUDAGuard guard(lprobs.device());
  const Report report = report_of(Argument::kNGramTokens);
  if (length - 1 < size || lprobs.numel() == 0) return;
  const bool in_place = lprobs.stride(1) == 1;
  at::Tensor blocked = in_place ? lprobs : lprobs.contiguous();
  const at::Tensor history = tokens.stride(1) == 1 ? tokens : tokens.contiguous();
  const at::Tensor spared = forced.has_value() ? forced->contiguous() : at::Tensor();
  const NGramParams params{blocked.data_ptr(),
                           blocked.stride(0),
                           blocked.size(1),
                           history.const_data_ptr<int64_t>(),
                           history.stride(0),
                           spared.defined() ? spared.const_data_ptr<bool>() : nullptr,
                           blocked.size(0),
                           size,
                           length,
                           report};
  launch_block_ngrams(params, dtype_of(blocked), current_stream());
  if (!in_place) lprobs.copy_(blocked);
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CUDA, m) { m.impl("block_ngrams_", block_ngrams_); }

}  // namespace el_attention::cuda
