// The rows of a call of attention as kernels of every device read them: plain structs.
//
// Notation: G sentences, B beams, H heads, K kv heads (1 or H), W key width, V value width, U
// rows, R rows and C columns of a segment.
#pragma once

#include <cstdint>

#include "sizes.h"

namespace el_attention {

// Distances between neighbours, in elements; the last dimension is contiguous.
struct Strides {
  int64_t row, column, head;
};

// A block of rows, in which one column belongs to one sentence.
struct Segment {
  const void* keys;        // [R, C, K, W], dtype of the query
  const void* values;      // [R, C, K, V], dtype of the query; may be keys; null in `weights`
  const int64_t* columns;  // int64 [G], the column of each sentence, in [0, C)
  int64_t column_count;    // C
  int64_t rows;            // R
  Strides key, value;
};

// The rows of a call, who sees them, and what is added to their scores.
// A = float, or double where the dtype is double.
struct Rows {
  Segment segments[kMaxSegments];
  int64_t segment_count;
  const bool* visible;    // [G, B or 1, U], contiguous rows; null where every beam sees every row
  int64_t visible_group;  // stride between sentences
  int64_t visible_beam;   // stride between beams; 0 for [G, 1, U]
  const void* bias;       // A [G, H, U], contiguous rows; null for none
  int64_t bias_group;     // stride between sentences
  int64_t bias_head;      // stride between heads
};

}  // namespace el_attention
