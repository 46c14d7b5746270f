// What the operators of attention hand to their kernels, which exist once for each instruction set.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "../sizes.h"

namespace el_attention::cpu {

// A piece of the row axis. Strides count elements.
struct Piece {
  const void* keys;        // [rows, C, K, W], AttendParams::dtype
  const void* values;      // [rows, C, K, V], AttendParams::dtype; for `attend` only
  const int64_t* columns;  // [G], the column of each sentence
  int64_t rows;
  int64_t key_row, key_column, key_head;
  int64_t value_row, value_column, value_head;
};

struct AttendParams {
  Sizes sizes;
  c10::ScalarType dtype;
  const void* query;  // [G, B, H, W], contiguous, dtype
  Piece pieces[kMaxPieces];
  int64_t piece_count;
  const bool* visible;  // [G, 1 or B, U], contiguous rows; nullptr where every beam sees every row
  int64_t visible_group, visible_beam;  // its strides; visible_beam is 0 for [G, 1, U]
  const void* bias;  // [G, H, U], contiguous rows, accumulation dtype; nullptr for none
  int64_t bias_group, bias_head;  // its strides
};

// How a call is cut into tasks. It follows from the sizes alone, so that the number of threads
// cannot change a bit of the result. All sizes count elements of the accumulation dtype.
struct Layout {
  bool many_queries;     // matrix products over packed rows, or products that read rows in place
  int64_t range;         // rows of a task: one sentence, a range of its row axis
  int64_t ranges;        // tasks of a sentence
  int64_t query_stride;  // from one query to the next in a partial result
  int64_t value_stride;  // from one context to the next in a partial result
  int64_t packed_query;  // size of the packed queries of a sentence
  int64_t partial;       // size of the partial result of a task
  int64_t scratch;       // size of the scratch memory of a thread
};

// The kernels of one dtype and instruction set. `packed`, `partial` and `scratch` are of the
// accumulation dtype (float64 for float64, else float32) and aligned to 64 bytes.
struct AttendKernels {
  Layout (*layout)(const AttendParams&, bool only_scores);
  void (*pack_query)(const AttendParams&, const Layout&, int64_t group, void* packed);
  void (*attend)(const AttendParams&, const Layout&, int64_t group, int64_t range,
                 const void* packed, void* partial, void* scratch);
  // context [G, B, H, V] and lse [G, B, H] of one sentence, from `partials` of all its ranges,
  // which it overwrites. Returns whether the context is finite.
  bool (*combine)(const AttendParams&, const Layout&, int64_t group, void* partials, void* context,
                  void* lse);
  // weights [G, B, H, U] of one range; those of rows that nobody sees are left as they are.
  void (*weights)(const AttendParams&, const Layout&, int64_t group, int64_t range,
                  const void* packed, const void* lse, void* weights, void* scratch);
};

}  // namespace el_attention::cpu
