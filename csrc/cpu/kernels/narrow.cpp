// The comparison of float32 weights with their copies in 16 bits. Bound by memory.

#include <cstring>

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

template <typename W>
bool is_widened(const float* wide, const void* narrow, int64_t count) {
  constexpr int64_t kTogether = 256, kLanes = Vec<W>::size();
  static_assert(kTogether % kLanes == 0);
  const W* from = static_cast<const W*>(narrow);
  float widened[kTogether];
  for (int64_t begin = 0; begin < count; begin += kTogether) {
    const int64_t size = std::min(kTogether, count - begin);
    for (int64_t i = 0; i < size; i += kLanes) {
      load(from + begin + i, size - i).store(widened + i);
    }
    // Not as numbers: 0 and -0 differ.
    if (std::memcmp(widened, wide + begin, size * sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace

IsWidened is_widened_kernel(c10::ScalarType narrow) {
  return narrow == c10::ScalarType::Half ? is_widened<at::Half> : is_widened<at::BFloat16>;
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
