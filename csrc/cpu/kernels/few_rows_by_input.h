// A linear layer of few rows whose weight lies input by input, [I, O], as in GPT-2.
//
// Bound by memory: kInputs rows of the weight are streamed side by side, so that the sums of a
// stretch of outputs, which stay in L1, are read and written once for all of them.
#pragma once

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// T: of input, bias and output; W: of the weight, T or one that widens to it exactly.
template <typename T, typename W>
class FewRowsByInput {
 public:
  using A = Accumulate<T>;

  static constexpr int64_t kOutputs = Vec<T>::size();

  static int64_t scratch(const LinearParams& p, int64_t groups) {
    return p.rows * std::min(groups * kOutputs, kStretch);
  }

  static void run(const LinearParams& p, int64_t first, int64_t last, void* scratch) {
    const FewRowsByInput kernel(p, std::min((last - first) * kOutputs, kStretch), scratch);
    const int64_t end = std::min(last * kOutputs, p.outputs);
    for (int64_t output = first * kOutputs; output < end; output += kStretch) {
      kernel.run(output, std::min(kStretch, end - output));
    }
  }

 private:
  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kStretch = 512;
  static constexpr int64_t kInputs = 4;

  FewRowsByInput(const LinearParams& p, int64_t stride, void* scratch)
      : p_(p), stride_(stride), sums_(static_cast<A*>(scratch)) {}

  // Computes outputs [output, output + width).
  void run(int64_t output, int64_t width) const {
    std::fill_n(sums_, p_.rows * stride_, A(0));
    int64_t input = 0;
    for (; input + kInputs <= p_.inputs; input += kInputs) add<kInputs>(input, output, width);
    for (; input < p_.inputs; ++input) add<1>(input, output, width);
    finish(output, width);
  }

  // Adds kCount inputs to the sums, one after another.
  template <int64_t kCount>
  void add(int64_t input, int64_t output, int64_t width) const {
    const W* weight[kCount];
    for (int64_t i = 0; i < kCount; ++i) {
      weight[i] = static_cast<const W*>(p_.weight) + (input + i) * p_.weight_input + output;
    }
    // To what the next call will read; at the end, what was read last.
    const int64_t ahead = input + 2 * kCount <= p_.inputs ? kCount * p_.weight_input : 0;
    for (int64_t o = 0; o < width; o += kLanes) {
      Vec<T> part[kCount];
      for (int64_t i = 0; i < kCount; ++i) {
        part[i] = load(weight[i] + o, width - o);
        __builtin_prefetch(weight[i] + o + ahead, 0, 2);
      }
      for (int64_t n = 0; n < p_.rows; ++n) {
        const T* row = static_cast<const T*>(p_.input) + n * p_.input_row + input;
        A* to = sums_ + n * stride_ + o;
        Vec<T> sum = Vec<T>::loadu(to);
        for (int64_t i = 0; i < kCount; ++i) {
          sum = at::vec::fmadd(part[i], Vec<T>(static_cast<A>(row[i])), sum);
        }
        sum.store(to);
      }
    }
  }

  void finish(int64_t output, int64_t width) const {
    const T* bias = static_cast<const T*>(p_.bias);
    for (int64_t n = 0; n < p_.rows; ++n) {
      T* to = static_cast<T*>(p_.output) + n * p_.outputs + output;
      for (int64_t o = 0; o < width; o += kLanes) {
        Vec<T> sum = Vec<T>::loadu(sums_ + n * stride_ + o);
        if (bias != nullptr) sum = sum + load(bias + output + o, width - o);
        store(sum, to + o, width - o);
      }
    }
  }

  const LinearParams& p_;
  const int64_t stride_;  // from the sums of one row to those of the next; whole vectors
  A* sums_;               // [rows, stride]
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
