// What the linear layer's operator hands to its kernels, which exist once for each instruction set.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace el_attention::cpu {

constexpr int64_t kFewRows = 8;
constexpr int64_t kMostRows = 256;  // up to here these kernels beat the BLAS or equal it

// output = input x weight^T + bias. Strides count elements.
struct LinearParams {
  c10::ScalarType dtype;         // of input, bias and output
  c10::ScalarType weight_dtype;  // the same, or Half or BFloat16 beside Float
  const void* input;             // [N, I]
  const void* weight;            // [O, I]; one of its strides is 1
  const void* bias;              // [O], or nullptr
  void* output;                  // [N, O], contiguous
  int64_t rows, inputs, outputs;
  int64_t input_row;
  int64_t weight_row, weight_input;  // from one output, and from one input, to the next
};

// The kernel of one pair of dtypes, instruction set and kind of sizes. An output's sum has one
// order, whatever the place of its row and the number of threads: a row gives the same bits in any
// batch that the same kernel takes. A weight that is widened gives the bits of the wide one.
struct LinearKernel {
  int64_t group;  // outputs that are computed together
  // Elements of the accumulation dtype that `run` needs for so many groups.
  int64_t (*scratch)(const LinearParams&, int64_t groups);
  // Computes outputs [first x group, last x group), as far as there are so many.
  void (*run)(const LinearParams&, int64_t first, int64_t last, void* scratch);
};

}  // namespace el_attention::cpu
