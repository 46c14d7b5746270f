// The kernels of the linear layer, and which one takes how many rows.

#include "few_rows.h"
#include "few_rows_by_input.h"
#include "many_rows.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

template <typename Kernel>
constexpr LinearKernel entry() {
  return {Kernel::kOutputs, Kernel::scratch, Kernel::run};
}

template <typename T, typename W>
constexpr LinearKernel kFew = entry<FewRows<T, W>>();
template <typename T, typename W>
constexpr LinearKernel kFewByInput = entry<FewRowsByInput<T, W>>();
template <typename T, typename W>
constexpr LinearKernel kMany = entry<ManyRows<T, W>>();

template <typename T, typename W = T>
const LinearKernel& choose(const LinearParams& params) {
  if (params.weight_input != 1) return kFewByInput<T, W>;
  return params.rows <= kFewRows ? kFew<T, W> : kMany<T, W>;
}

}  // namespace

const LinearKernel& linear_kernel(const LinearParams& params) {
  if (params.dtype != params.weight_dtype) {  // float, as the operator has made sure
    return params.weight_dtype == c10::ScalarType::Half ? choose<float, at::Half>(params)
                                                        : choose<float, at::BFloat16>(params);
  }
  return for_dtype(params.dtype,
                   [&](auto zero) -> auto& { return choose<decltype(zero)>(params); });
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
