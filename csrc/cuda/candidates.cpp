// `log_sum_exp` and `top_candidates` on CUDA: checks, memory and launches.

#include <ATen/Functions.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "host.h"

namespace el_attention::cuda {
namespace {

at::Tensor log_sum_exp(const at::Tensor& logits) {
  check_logits(logits);
  const c10::cuda::CUDAGuard guard(logits.device());
  raise_reported();
  at::Tensor lse = at::empty({logits.size(0)}, logits.options().dtype(accumulator(logits)));
  if (lse.numel() == 0) return lse;
  if (logits.size(1) == 0) return lse.fill_(-std::numeric_limits<double>::infinity());
  const LogSumExpParams params{logits.const_data_ptr(), logits.stride(0), logits.size(1),
                               logits.size(0), lse.data_ptr()};
  const Dtype dtype = dtype_of(logits);
  const at::Tensor scratch = at::empty({static_cast<int64_t>(log_sum_exp_scratch(params, dtype))},
                                       logits.options().dtype(at::kByte));
  launch_log_sum_exp(params, dtype, scratch.data_ptr(), current_stream());
  return lse;
}

std::tuple<at::Tensor, at::Tensor> top_candidates(const at::Tensor& logits, const at::Tensor& lse,
                                                  const at::Tensor& scores, int64_t beam,
                                                  int64_t k) {
  check_candidates(logits, lse, scores, beam, k);
  const c10::cuda::CUDAGuard guard(logits.device());
  raise_reported();
  const int64_t sentences = logits.size(0) / beam;
  at::Tensor values = at::empty({sentences, k}, lse.options());
  at::Tensor index = at::empty({sentences, k}, lse.options().dtype(at::kLong));
  if (sentences == 0) return {values, index};
  const at::Tensor base = lse.contiguous(), bonus = scores.contiguous();
  const CandidateParams params{
      logits.const_data_ptr(), logits.stride(0), logits.size(1), base.const_data_ptr(),
      bonus.const_data_ptr(),  sentences,        beam,           k};
  const Dtype dtype = dtype_of(logits);
  const Device device = current_device();
  const auto bytes = static_cast<int64_t>(candidates_scratch(params, dtype, device));
  const at::Tensor scratch = at::empty({bytes}, logits.options().dtype(at::kByte));
  const Lists best{values.data_ptr(), index.data_ptr<int64_t>()};
  launch_candidates(params, dtype, device, best, scratch.data_ptr(), current_stream());
  return {values, index};
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CUDA, m) {
  m.impl("log_sum_exp", log_sum_exp);
  m.impl("top_candidates", top_candidates);
}

}  // namespace el_attention::cuda
