// The kernels of the linear layer, and which one takes how many rows.

#include "few_rows.h"
#include "many_rows.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

constexpr int64_t kFewRows = 8;

template <template <typename> class Kernel, typename T>
constexpr LinearKernel entry() {
  return {Kernel<T>::kOutputs, Kernel<T>::scratch, Kernel<T>::run};
}

template <typename T>
constexpr LinearKernel kFew = entry<FewRows, T>();
template <typename T>
constexpr LinearKernel kMany = entry<ManyRows, T>();

template <typename T>
const LinearKernel& choose(int64_t rows) {
  return rows <= kFewRows ? kFew<T> : kMany<T>;
}

}  // namespace

const LinearKernel& linear_kernel(c10::ScalarType dtype, int64_t rows) {
  return for_dtype(dtype, [&](auto zero) -> auto& { return choose<decltype(zero)>(rows); });
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
