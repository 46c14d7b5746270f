// Division and rounding of sizes, for host and device code.
#pragma once

#ifdef __CUDACC__
#define EL_CONSTEXPR __host__ __device__ constexpr
#else
#define EL_CONSTEXPR constexpr
#endif

namespace el_attention {

// Static: each instruction set has code of its own.
template <typename A, typename B>
static EL_CONSTEXPR auto divide_up(A a, B b) {
  return (a + b - 1) / b;
}

template <typename A, typename B>
static EL_CONSTEXPR auto round_up(A a, B multiple) {
  return divide_up(a, multiple) * multiple;
}

}  // namespace el_attention
