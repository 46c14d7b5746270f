// The operators of EL-attention: their schemas, and what holds on every device.
//
// Notation: G sentences, B beams, H heads, K kv heads (1 or H), W key width, V value width, U
// rows. The rows lie in segments [R, C, K, W]; sentence g reads column columns[g] of each segment,
// and rows that no beam of the sentence sees are never read. A row that a beam does not see counts
// as not there for that beam, whatever it holds.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "derivatives.h"

namespace el_attention {
namespace {

// The operators serve inference. Where derivatives are asked for, in reverse or in forward mode,
// say so instead of losing them.
void refuse_gradients(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                      torch::jit::Stack* stack) {
  if (!derivatives_are_on()) {
    op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
    return;
  }
  const bool reverse = at::GradMode::is_enabled();
  const auto check = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    TORCH_CHECK(!(reverse && tensor.requires_grad()), op.schema().name(),
                ": expected inputs that need no gradient, got one that does; it is an inference ",
                "operator, call it under torch.no_grad()");
    TORCH_CHECK(!tensor._fw_grad(/*level=*/0).defined(), op.schema().name(),
                ": expected inputs without a tangent, got one with a tangent; it is an inference ",
                "operator and has no forward-mode derivative");
  };
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) check(value.toTensor());
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) check(tensor);
    }
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

// Tells autograd that the first argument is overwritten: whoever has saved it for a backward pass
// gets an error instead of a wrong gradient.
void raise_version(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                   torch::jit::Stack* stack) {
  const at::Tensor overwritten =
      torch::jit::peek(*stack, 0, op.schema().arguments().size()).toTensor();
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  overwritten.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

TORCH_LIBRARY(el_attention, m) {
  // query    [G, B, H, W] float64, float32, float16 or bfloat16, already scaled
  // keys     [R_i, C_i, K, W] each, dtype of the query, last dimension contiguous
  // values   [R_i, C_i, K, V] each; for the expanded query the very same tensors as keys
  // columns  int64 [G] each, in [0, C_i)
  // visible  bool [G, B or 1, U], or None where every beam sees every row
  // bias     [G, H, U] in the dtype of lse, last dimension contiguous, added to the scores of all
  //          beams; or None.  A row of bias -inf has weight 0, but is read: it must be finite.
  // -> context [G, B, H, V] in the dtype of the query, and lse [G, B, H] in float32 (float64 for
  //    float64), the natural logarithm of the sum of exp(query . key + bias) over visible rows.
  //    Where a query sees nothing, or only rows of bias -inf, context is 0 and lse -inf.
  m.def(
      "attend(Tensor query, Tensor[] keys, Tensor[] values, Tensor[] columns, Tensor? visible, "
      "Tensor? bias) -> (Tensor context, Tensor lse)");

  // -> [G, B, H, U] in the dtype of lse: exp(query . key + bias - lse), 0 where a row is not
  // visible.
  m.def(
      "weights(Tensor query, Tensor[] keys, Tensor[] columns, Tensor? visible, Tensor? bias, "
      "Tensor lse) -> Tensor");

  // Sets to -inf, in lprobs [N, vocabulary], what would complete an n-gram of `size` tokens for the
  // second time.  tokens is int64 [N, columns], of which `length` are there; the first of them does
  // not count.  forced is bool [N], rows to be left as they are, or None.
  m.def(
      "block_ngrams_(Tensor(a!) lprobs, Tensor tokens, int size, int length, Tensor? forced) "
      "-> ()");

  // logits [N, vocabulary] float64, float32, float16 or bfloat16, last dimension contiguous
  // -> [N] in float32 (float64 for float64): the natural logarithm of the sum of exp(logit) of each
  //    row; NaN where one of them is NaN, -inf where all of them are -inf.
  m.def("log_sum_exp(Tensor logits) -> Tensor");

  // The best k of the candidates of each sentence, without log-probabilities in memory.  Sentence g
  // has rows [g * beam, (g + 1) * beam) of logits [N, vocabulary]; candidate b * vocabulary + token
  // is worth (logits[g * beam + b, token] - lse[g * beam + b]) + scores[g * beam + b], or -inf
  // where that is NaN.  lse and scores are [N] in the dtype of log_sum_exp.
  // -> values [N / beam, k] in descending order, in the dtype of lse, and index int64 [N / beam,
  // k];
  //    of equal candidates those of lower index come first.
  m.def(
      "top_candidates(Tensor logits, Tensor lse, Tensor scores, int beam, int k) "
      "-> (Tensor values, Tensor index)");

  // input     [N, I] float64, float32, float16 or bfloat16
  // weight    [O, I] of the same dtype; or of float16 or bfloat16, beside an input of float32
  // bias      [O] of the dtype of the input, or None
  // -> input x weight^T + bias, [N, O] in the dtype of the input; a row gives the same bits in any
  //    batch, and a weight of 16 bits the same as in float32.  For CPUs: there is no other
  //    implementation.
  m.def("linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor");

  // weight    float32, narrow float16 or bfloat16 of the same sizes
  // -> bool []: whether every value of `narrow` has the bits of that of `weight` in float32.  For
  //    CPUs, too.
  m.def("is_widened(Tensor weight, Tensor narrow) -> Tensor");
}

TORCH_LIBRARY_IMPL(el_attention, Autograd, m) {
  for (const char* name : {"attend", "weights", "block_ngrams_", "log_sum_exp", "top_candidates",
                           "linear", "is_widened"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_gradients>());
  }
}

TORCH_LIBRARY_IMPL(el_attention, ADInplaceOrView, m) {
  m.impl("block_ngrams_", torch::CppFunction::makeFromBoxedFunction<&raise_version>());
}

}  // namespace el_attention
