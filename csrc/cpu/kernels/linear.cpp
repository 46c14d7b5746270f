// The kernels of the linear layer, and which one takes how many rows.

#include "few_rows.h"
#include "many_rows.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

constexpr int64_t kFewRows = 8;

template <typename Kernel>
constexpr LinearKernel entry() {
  return {Kernel::kOutputs, Kernel::scratch, Kernel::run};
}

template <typename T, typename W>
constexpr LinearKernel kFew = entry<FewRows<T, W>>();
template <typename T, typename W>
constexpr LinearKernel kMany = entry<ManyRows<T, W>>();

template <typename T, typename W = T>
const LinearKernel& choose(int64_t rows) {
  return rows <= kFewRows ? kFew<T, W> : kMany<T, W>;
}

}  // namespace

const LinearKernel& linear_kernel(c10::ScalarType dtype, c10::ScalarType weight, int64_t rows) {
  if (dtype != weight) {  // float, as the operator has made sure
    return weight == c10::ScalarType::Half ? choose<float, at::Half>(rows)
                                           : choose<float, at::BFloat16>(rows);
  }
  return for_dtype(dtype, [&](auto zero) -> auto& { return choose<decltype(zero)>(rows); });
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
