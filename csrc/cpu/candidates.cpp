// `log_sum_exp` and `top_candidates` on the CPU: checks, tasks and threads. The arithmetic is in
// kernels/candidates.cpp.

#include "candidates.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>

#include "../checks.h"
#include "../integers.h"
#include "dispatch.h"

namespace el_attention::cpu {
namespace {

// Tasks follow from the sizes alone, so that the number of threads cannot change a bit of the
// result.
constexpr int64_t kSumRange = 4096;  // logits of a task; they stay in L1 between two readings
constexpr int64_t kTasks = 64;       // of `top_candidates`, about
constexpr int64_t kLeastRange = 16 * 1024;  // candidates of a task, many times kMaxCandidates

at::Tensor log_sum_exp(const at::Tensor& logits) {
  check_logits(logits);
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const int64_t ranges = std::max(divide_up(vocabulary, kSumRange), int64_t{1});
  const auto options = logits.options().dtype(accumulator(logits));
  const at::Tensor partial = at::empty({rows, ranges}, options);
  const CandidateKernels& kernels = cpu::kernels().candidates(logits.scalar_type());
  const auto* data = static_cast<const char*>(logits.const_data_ptr());
  auto* partials = static_cast<char*>(partial.data_ptr());
  const int64_t bytes = partial.element_size();
  at::parallel_for(0, rows * ranges, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % ranges * kSumRange;
      const int64_t place = task / ranges * logits.stride(0) + first;
      kernels.log_sum_exp(data + place * logits.element_size(),
                          std::min(kSumRange, vocabulary - first), partials + task * bytes);
    }
  });
  if (ranges == 1) return partial.squeeze(1);
  const at::Tensor lse = at::empty({rows}, options);
  auto* sums = static_cast<char*>(lse.data_ptr());
  const CandidateKernels& merge = cpu::kernels().candidates(lse.scalar_type());
  for (int64_t row = 0; row < rows; ++row) {
    merge.log_sum_exp(partials + row * ranges * bytes, ranges, sums + row * bytes);
  }
  return lse;
}

std::tuple<at::Tensor, at::Tensor> top_candidates(const at::Tensor& logits, const at::Tensor& lse,
                                                  const at::Tensor& scores, int64_t beam,
                                                  int64_t k) {
  check_candidates(logits, lse, scores, beam, k);
  const int64_t groups = logits.size(0) / beam, count = beam * logits.size(1);
  const at::Tensor base = lse.contiguous(), bonus = scores.contiguous();
  const CandidateParams params{logits.const_data_ptr(),
                               logits.stride(0),
                               logits.size(1),
                               beam,
                               base.const_data_ptr(),
                               bonus.const_data_ptr(),
                               k};
  const int64_t range = std::max(divide_up(groups * count, kTasks), kLeastRange);
  const int64_t ranges = divide_up(count, range);
  const at::Tensor values = at::empty({groups, ranges, k}, lse.options());
  const at::Tensor index = at::empty({groups, ranges, k}, lse.options().dtype(at::kLong));
  const CandidateKernels& kernels = cpu::kernels().candidates(logits.scalar_type());
  const auto run = [&](const at::Tensor& values, const at::Tensor& index, const auto& fill) {
    auto* value = static_cast<char*>(values.data_ptr());
    auto* place = index.data_ptr<int64_t>();
    at::parallel_for(0, values.numel() / k, 1, [&](int64_t begin, int64_t end) {
      for (int64_t list = begin; list < end; ++list) {
        fill(list, value + list * k * values.element_size(), place + list * k);
      }
    });
  };
  run(values, index, [&](int64_t task, void* value, int64_t* place) {
    const int64_t first = task % ranges * range;
    kernels.top(params, task / ranges, first, std::min(first + range, count), value, place);
  });
  if (ranges == 1) return {values.squeeze(1), index.squeeze(1)};
  const at::Tensor best_values = at::empty({groups, k}, values.options());
  const at::Tensor best_index = at::empty({groups, k}, index.options());
  const int64_t found = (ranges - 1) * k + std::min(k, count - (ranges - 1) * range);
  run(best_values, best_index, [&](int64_t group, void* value, int64_t* place) {
    const int64_t first = group * ranges * k;
    kernels.merge(static_cast<const char*>(values.const_data_ptr()) + first * values.element_size(),
                  index.const_data_ptr<int64_t>() + first, found, k, value, place);
  });
  return {best_values, best_index};
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CPU, m) {
  m.impl("log_sum_exp", log_sum_exp);
  m.impl("top_candidates", top_candidates);
}

}  // namespace el_attention::cpu
