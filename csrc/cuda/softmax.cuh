// Online softmax in base 2: what all attention kernels agree on.
#pragma once

#include "primitives.cuh"

namespace el_attention::cuda {

template <typename T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
// The type of scores, sums and lse: float, or double for double.
template <typename T>
using Accumulator = typename AccumulatorOf<T>::Type;

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

template <typename A>
EL_DEVICE A minus_infinity() {
  return static_cast<A>(-INFINITY);
}

// What scores are taken relative to: where it is -inf all of them are, and differences would be
// NaN.
template <typename A>
EL_DEVICE A finite_or_zero(A reference) {
  return reference == minus_infinity<A>() ? A(0) : reference;
}

// The state of one query: its weights so far are exp(score) / 2^reference.
template <typename A>
struct Softmax {
  A reference;  // log2(e) * a score that is close to the greatest so far; -inf if there is none
  A total;      // of the weights

  EL_DEVICE static Softmax empty() { return {minus_infinity<A>(), 0}; }

  // Takes up the greatest of some new scores; returns the factor for everything summed so far. It
  // is 1 unless scores have grown so much that weights might leave the range of float16: sums are
  // rarely multiplied, and the result is the same.
  EL_DEVICE A raise(A score) {
    const A before = reference, found = score * A(kLog2E);
    if (found <= before + kSlack) return 1;
    reference = fmax(before, found);
    return fast_exp2(before - finite_or_zero(reference));
  }

  // 0 for a score of -inf.
  EL_DEVICE A weight(A score) const {
    return fast_exp2(fma(score, A(kLog2E), -finite_or_zero(reference)));
  }

  // ln of the sum of exp(score).
  EL_DEVICE A lse() const { return (reference + fast_log2(total)) * A(kLn2); }

  // Factor that makes a weighted sum a mean: 0 where nothing is seen, NaN where a weight is NaN.
  EL_DEVICE A norm() const { return total == 0 ? A(0) : 1 / total; }

 private:
  static constexpr int kSlack = 8;  // weights up to 2^8
};

}  // namespace el_attention::cuda
