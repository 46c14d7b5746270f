// What the operators of attention hand to their kernels, which exist once for each instruction set.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "../rows.h"

namespace el_attention::cpu {

struct AttendParams {
  Sizes sizes;
  c10::ScalarType dtype;
  const void* query;  // [G, B, H, W], contiguous, dtype
  Rows rows;
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
