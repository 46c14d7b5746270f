// Conversions of 16-bit floating-point numbers, as the instructions of a GPU do them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace el_attention::emulator {

inline float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

inline uint32_t bits_from_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// fp16 has 5 bits of exponent and 10 of fraction, float 8 and 23.
constexpr int kFractionShift = 23 - 10;
constexpr uint32_t kExponentShift = (127 - 15) << 23;  // between the two biases, in place
constexpr uint32_t kFloatInfinity = 0x7f800000;

inline float float_from_half(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinity and NaN
    return float_from_bits(sign | kFloatInfinity | (magnitude & 0x3ff) << kFractionShift);
  }
  if (magnitude < 0x400) {  // subnormal: units of 2^-24
    const float x = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -x : x;
  }
  return float_from_bits(sign | ((magnitude << kFractionShift) + kExponentShift));
}

// Rounds to nearest even. NaN becomes 0x7fff, as the cvt instruction makes it.
inline uint16_t half_from_float(float x) {
  const uint32_t bits = bits_from_float(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > kFloatInfinity) return 0x7fff;
  if (magnitude >= bits_from_float(65520.0f)) return uint16_t(sign | 0x7c00);
  if (magnitude < bits_from_float(0x1p-14f)) {
    return uint16_t(sign | uint32_t(std::nearbyint(float_from_bits(magnitude) * 0x1p24f)));
  }
  const uint32_t rebased = magnitude - kExponentShift;
  return uint16_t(sign | (rebased + 0xfff + (rebased >> kFractionShift & 1)) >> kFractionShift);
}

inline float float_from_bfloat16(uint16_t x) { return float_from_bits(uint32_t(x) << 16); }

}  // namespace el_attention::emulator
