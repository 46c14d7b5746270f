// What the operators of a search hand to their kernels, which exist once for each instruction set.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace el_attention::cpu {

struct CandidateParams {
  const void* logits;  // [G * beam, vocabulary] of the dtype
  int64_t logits_row;  // stride
  int64_t vocabulary;
  int64_t beam;
  const void* lse;     // [G * beam], contiguous, of the accumulation dtype
  const void* scores;  // as lse
  int64_t k;
};

// The kernels of one dtype and instruction set.
struct CandidateKernels {
  // ln(sum(exp(logit))) of `count` logits, of the accumulation dtype.
  void (*log_sum_exp)(const void* logits, int64_t count, void* lse);
  // The best of the candidates [begin, end) of a sentence in order: min(k, end - begin) values of
  // the accumulation dtype, and indices.
  void (*top)(const CandidateParams&, int64_t group, int64_t begin, int64_t end, void* values,
              int64_t* index);
  // The k best out of lists that `top` wrote for one range after the other, [lists, k] of which
  // `count` are there.
  void (*merge)(const void* values, const int64_t* index, int64_t count, int64_t k,
                void* best_values, int64_t* best_index);
};

}  // namespace el_attention::cpu
