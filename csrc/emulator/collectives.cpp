// What the lanes of a warp do together: shuffles, ldmatrix, mma.
#include <string>

#include "block.h"
#include "machine.h"
#include "memory.h"
#include "sanitizers.h"

namespace el_attention::emulator {

namespace {

// ---- Exchange -----------------------------------------------------------------------------------

struct Exchange {
  uint64_t value;
  int source;
  uint64_t result;
};

void exchange_operation(void* const (&operands)[kLanes]) {
  for (void* operand : operands) {
    auto& lane = *static_cast<Exchange*>(operand);
    lane.result = static_cast<const Exchange*>(operands[lane.source])->value;
  }
}
constexpr Operation kExchange{"shuffle", exchange_operation};

struct Vote {
  bool predicate;
  uint32_t result;
};

void vote_operation(void* const (&operands)[kLanes]) {
  uint32_t votes = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    votes |= uint32_t(static_cast<const Vote*>(operands[lane])->predicate) << lane;
  }
  for (void* operand : operands) static_cast<Vote*>(operand)->result = votes;
}
constexpr Operation kVote{"warp_ballot", vote_operation};

// ---- ldmatrix -----------------------------------------------------------------------------------

constexpr int kMatrixSide = 8;  // rows and columns of the matrices that ldmatrix loads

struct Load {
  uint32_t* fragment;  // [4]
  const void* row;
};

template <bool transposed>
void ldmatrix_operation(void* const (&operands)[kLanes]) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t elements[kMatrixSide][kMatrixSide];
    for (int row = 0; row < kMatrixSide; ++row) {
      const auto& lane = *static_cast<const Load*>(operands[matrix * kMatrixSide + row]);
      memcpy(elements[row], lane.row, sizeof(elements[row]));
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const uint16_t low = transposed ? elements[column][row] : elements[row][column];
      const uint16_t high = transposed ? elements[column + 1][row] : elements[row][column + 1];
      static_cast<Load*>(operands[lane])->fragment[matrix] = low | uint32_t(high) << 16;
    }
  }
}
constexpr Operation kLoadMatrices{"ldmatrix_x4", ldmatrix_operation<false>};
constexpr Operation kLoadTransposed{"ldmatrix_x4_trans", ldmatrix_operation<true>};

// ---- mma ----------------------------------------------------------------------------------------

constexpr int kRows = 16, kColumns = 8;  // of the sum

struct Multiply {
  float* sum;         // [4]
  const uint32_t* a;  // [kDepth / 4]
  uint32_t b[2];
};

// sum += a * b. The products of 16-bit numbers are exact in float; how a GPU rounds their sum is
// not documented: here each addition rounds to nearest.
template <float (*decode)(uint16_t), int kDepth>
void mma_operation(void* const (&operands)[kLanes]) {
  float a[kRows][kDepth], b[kDepth][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& operand = *static_cast<const Multiply*>(operands[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < kDepth / 8; ++half) {
      for (int i = 0; i < 2; ++i) {
        const int k = half * 8 + pair + i, shift = 16 * i;
        a[group][k] = decode(uint16_t(operand.a[half * 2] >> shift));
        a[group + 8][k] = decode(uint16_t(operand.a[half * 2 + 1] >> shift));
        b[k][group] = decode(uint16_t(operand.b[half] >> shift));
      }
    }
  }
  float product[kRows][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* sum = static_cast<const Multiply*>(operands[lane])->sum;
    for (int i = 0; i < 4; ++i) product[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sum[i];
  }
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) {
        product[row][column] += a[row][k] * b[k][column];
      }
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    float* sum = static_cast<Multiply*>(operands[lane])->sum;
    for (int i = 0; i < 4; ++i) sum[i] = product[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
  Counters& counters = machine_state().counters;
  counters.mma_instructions += 1;
  counters.mma_flops += 2 * kRows * kColumns * kDepth;
}
constexpr Operation kMmaHalf{"mma_m16n8k16", mma_operation<float_from_half, 16>};
constexpr Operation kMmaBFloat16{"mma_m16n8k16", mma_operation<float_from_bfloat16, 16>};
constexpr Operation kMmaHalf8{"mma_m16n8k8", mma_operation<float_from_half, 8>};

}  // namespace

uint64_t exchange(uint64_t bits, int source, Site site) {
  if (source < 0 || source >= kLanes) {
    fail("shuffle: expected a lane from 0 to 31, got " + std::to_string(source), site);
  }
  Exchange operand{bits, source, 0};
  wait_for_warp(kExchange, &operand, site);
  return operand.result;
}

uint32_t ballot(bool predicate, Site site) {
  Vote operand{predicate, 0};
  wait_for_warp(kVote, &operand, site);
  return operand.result;
}

void ldmatrix_x4(uint32_t* fragment, const void* row, bool transposed, Site site) {
  const sanitizers::Frame frame(__builtin_return_address(0));
  touch_shared(kLdmatrix, row, kMatrixSide * sizeof(uint16_t), site);
  Load operand{fragment, row};
  wait_for_warp(transposed ? kLoadTransposed : kLoadMatrices, &operand, site);
}

void mma_m16n8k16_half(float* sum, const uint32_t* a, uint32_t b0, uint32_t b1, Site site) {
  Multiply operand{sum, a, {b0, b1}};
  wait_for_warp(kMmaHalf, &operand, site);
}

void mma_m16n8k16_bfloat16(float* sum, const uint32_t* a, uint32_t b0, uint32_t b1, Site site) {
  Multiply operand{sum, a, {b0, b1}};
  wait_for_warp(kMmaBFloat16, &operand, site);
}

void mma_m16n8k8_half(float* sum, uint32_t a0, uint32_t a1, uint32_t b0, Site site) {
  const uint32_t a[2] = {a0, a1};
  Multiply operand{sum, a, {b0, 0}};
  wait_for_warp(kMmaHalf8, &operand, site);
}

}  // namespace el_attention::emulator
