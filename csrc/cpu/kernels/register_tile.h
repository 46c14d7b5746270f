// A product of two matrices, as far as its result fits in the registers.
#pragma once

#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// Rows x vectors of columns of a result: what 16 or 32 registers hold.
template <typename T>
class RegisterTile {
 public:
  using A = Accumulate<T>;
  static constexpr int64_t kLanes = Vec<T>::size();
  static constexpr int64_t kRows = kLanes * sizeof(A) == 64 ? 8 : 4;
  static constexpr int64_t kWidest = 3;                // vectors
  static constexpr int64_t kPanel = kWidest * kLanes;  // columns

  // Columns of the next tile, of so many that are left; two halves instead of a narrow one.
  static int64_t panel_of(int64_t left) {
    return left == (kWidest + 1) * kLanes ? left / 2 : std::min(left, kPanel);
  }

  enum Order { kByRow, kByColumn };  // what of a matrix lies together

  // out [kRows, columns] = scale x out + left x right, where without `scale` out is not read.
  // The rows of `left`, or its columns, lie left_stride apart, those of `right` right_row; `inner`
  // is the length of a row of `left`.
  struct Product {
    const A* left;
    int64_t left_stride;
    const A* right;
    int64_t right_row, inner;
    A* out;
    int64_t out_row;
    const A* scale;
  };

  // Calls also(j, vectors of right[j]) every kSteps steps.
  template <Order kLeft, int64_t kSteps, typename Also>
  static void multiply(int64_t columns, const Product& product, const Also& also) {
    static_assert(kWidest == 3);
    if (columns == 3 * kLanes) return multiply<kLeft, kSteps, 3>(product, also);
    if (columns == 2 * kLanes) return multiply<kLeft, kSteps, 2>(product, also);
    multiply<kLeft, kSteps, 1>(product, also);
  }

 private:
  template <Order kLeft, int64_t kSteps, int64_t kVectors, typename Also>
  static void multiply(const Product& product, const Also& also) {
    const auto [left_begin, left_stride, right_begin, right_row, inner, out, out_row, scale] =
        product;
    const int64_t left_row = kLeft == kByRow ? left_stride : 1;
    const int64_t left_column = kLeft == kByRow ? 1 : left_stride;
    const A *left = left_begin, *right = right_begin;
    Vec<T> tile[kRows][kVectors];
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t n = 0; n < kVectors; ++n) {
        tile[i][n] = Vec<T>(A(0));
        if (scale != nullptr) {
          tile[i][n] = Vec<T>::loadu(out + i * out_row + n * kLanes) * Vec<T>(scale[i]);
        }
      }
    }
    const auto step = [&](int64_t j, bool calls) __attribute__((always_inline)) {
      Vec<T> columns[kVectors];
      for (int64_t n = 0; n < kVectors; ++n) columns[n] = Vec<T>::loadu(right + n * kLanes);
      if (calls) also(j, columns);
      for (int64_t i = 0; i < kRows; ++i) {
        const Vec<T> factor(left[i * left_row]);
        for (int64_t n = 0; n < kVectors; ++n) {
          tile[i][n] = at::vec::fmadd(factor, columns[n], tile[i][n]);
        }
      }
      left += left_column;
      right += right_row;
    };
    int64_t j = 0;
    for (; j + kSteps <= inner; j += kSteps) {
      for (int64_t i = 0; i < kSteps; ++i) step(j + i, i == 0);
    }
    for (; j < inner; ++j) step(j, false);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t n = 0; n < kVectors; ++n) tile[i][n].store(out + i * out_row + n * kLanes);
    }
  }
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
