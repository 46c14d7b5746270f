// `is_widened` on the CPU: checks and threads. The comparison is in kernels/narrow.cpp.

#include "narrow.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <atomic>

#include "../checks.h"
#include "../integers.h"
#include "dispatch.h"

namespace el_attention::cpu {
namespace {

constexpr int64_t kTogether = 1 << 14;  // elements between two looks at what others have found

at::Tensor is_widened(const at::Tensor& weight, const at::Tensor& narrow) {
  check_narrow(weight, narrow);
  const at::Tensor w = weight.contiguous(), n = narrow.contiguous();
  const IsWidened compare = kernels().is_widened(n.scalar_type());
  const auto* wide = w.const_data_ptr<float>();
  const auto* from = static_cast<const char*>(n.const_data_ptr());
  std::atomic<bool> same{true};
  const int64_t count = w.numel(), parts = divide_up(count, kTogether);
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last && same; ++part) {
      const int64_t begin = part * kTogether;
      const int64_t size = std::min(kTogether, count - begin);
      if (!compare(wide + begin, from + begin * n.itemsize(), size)) same = false;
    }
  });
  return at::scalar_tensor(same.load(), w.options().dtype(at::kBool));
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CPU, m) { m.impl("is_widened", is_widened); }

}  // namespace el_attention::cpu
