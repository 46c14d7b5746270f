// What launchers share: the type of a dtype, and sizes of grids.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>

#include "../integers.h"
#include "params.h"
#include "primitives.cuh"

namespace el_attention::cuda {

constexpr int kMaxGridX = std::numeric_limits<int>::max();

inline size_t bytes_of(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

// Calls `f` with a value of the type of `dtype`.
template <typename F>
auto with_type(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f(double());
    case Dtype::kFloat32:
      return f(float());
    case Dtype::kFloat16:
      return f(Half());
    case Dtype::kBFloat16:
      return f(BFloat16());
  }
  throw std::invalid_argument("dtype: expected one of Dtype");
}

}  // namespace el_attention::cuda
