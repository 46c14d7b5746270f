// `block_ngrams_` on the CPU.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "../checks.h"

namespace el_attention::cpu {
namespace {

template <typename T>
void block(at::TensorAccessor<T, 1> lprobs, const int64_t* tokens, int64_t count, int64_t size) {
  const int64_t vocabulary = lprobs.size(0);
  const int64_t* last = tokens + count - (size - 1);  // what the next token would continue
  for (int64_t start = 0; start + size <= count; ++start) {
    if (!std::equal(last, tokens + count, tokens + start)) continue;
    const int64_t token = tokens[start + size - 1];
    TORCH_CHECK_INDEX(token >= 0 && token < vocabulary, "tokens: expected tokens in [0, ",
                      vocabulary, "), the vocabulary of lprobs, got ", token);
    lprobs[token] = -std::numeric_limits<float>::infinity();
  }
}

template <typename T>
void block_all(at::Tensor& lprobs, const at::Tensor& tokens, int64_t size, int64_t length,
               const bool* forced) {
  auto rows = lprobs.accessor<T, 2>();
  const int64_t* first = tokens.const_data_ptr<int64_t>();
  at::parallel_for(0, lprobs.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (forced != nullptr && forced[row]) continue;
      block(rows[row], first + row * tokens.stride(0) + 1, length - 1, size);
    }
  });
}

void block_ngrams_(at::Tensor lprobs, const at::Tensor& tokens, int64_t size, int64_t length,
                   const std::optional<at::Tensor>& forced) {
  check_ngrams(lprobs, tokens, size, length, forced);
  if (length - 1 < size || lprobs.size(0) == 0) return;
  const at::Tensor history = tokens.stride(1) == 1 ? tokens : tokens.contiguous();
  const at::Tensor spared = forced.has_value() ? forced->contiguous() : at::Tensor();
  const bool* spare = spared.defined() ? spared.const_data_ptr<bool>() : nullptr;
  switch (lprobs.scalar_type()) {
    case at::kDouble:
      return block_all<double>(lprobs, history, size, length, spare);
    case at::kFloat:
      return block_all<float>(lprobs, history, size, length, spare);
    case at::kHalf:
      return block_all<at::Half>(lprobs, history, size, length, spare);
    default:  // as check_ngrams has made sure
      return block_all<at::BFloat16>(lprobs, history, size, length, spare);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CPU, m) { m.impl("block_ngrams_", block_ngrams_); }

}  // namespace el_attention::cpu
