// What the comparison of narrow weights hands to its kernels.
#pragma once

#include <cstdint>

namespace el_attention::cpu {

// Tells whether `count` float32 values have the bits of `narrow`, Half or BFloat16, in float32.
using IsWidened = bool (*)(const float* wide, const void* narrow, int64_t count);

}  // namespace el_attention::cpu
