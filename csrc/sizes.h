// Limits and sizes that operators and kernels of every device share.
#pragma once

#include <cstdint>

namespace el_attention {

// The tree grows its segments geometrically, so that a generation stays far below this.
constexpr int64_t kMaxSegments = 16;

// Candidates that `top_candidates` returns at most: twice the largest beam, and more.
constexpr int64_t kMaxCandidates = 512;

// Sizes of one call, as csrc/ops.cpp names them.
struct Sizes {
  int64_t groups;       // G, sentences
  int64_t beam;         // B
  int64_t heads;        // H
  int64_t kv_heads;     // K, 1 or H
  int64_t width;        // W, of a query and a key
  int64_t value_width;  // V, of a value and a context; 0 where there are no values
  int64_t rows;         // U, in all segments together
};

}  // namespace el_attention
