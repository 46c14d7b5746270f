// What the CUDA kernels are given: plain structs, passed by value.
//
// Notation: G sentences, B beams, H heads, K kv heads (1 or H), W key width, V value width, U
// rows.
#pragma once

#include <cstdint>

#include "../rows.h"
#include "report.h"

namespace el_attention::cuda {

enum class Dtype { kFloat64, kFloat32, kFloat16, kBFloat16 };

// A query [G, B, H, W], the last dimension contiguous, the distances of the others in elements.
struct Query {
  const void* data;
  int64_t group, beam, head;
};

struct AttendParams {
  Sizes sizes;
  Rows rows;
  Query query;
  void* context;  // [G, B, H, V], contiguous, dtype of the query
  void* lse;      // [G, B, H], contiguous, float; double where the dtype is double
  Report report;
};

// The row axis cut into ranges that blocks read on their own; `combine` merges what they find.
// A = float, or double where the dtype is double.
struct Split {
  int count;      // ranges
  int rows;       // of each range but the last
  void* context;  // A [count, G, B, H, V], the context of each range; unused where count is 1
  void* lse;      // A [count, G, B, H], -inf where a range has nothing to see; as `context`
};

// How the warps of a block of `expanded_query` are arranged, and how many tiles of rows it holds.
struct WarpGrid {
  int slices;      // of the columns
  int row_groups;  // of the queries
  int stages;      // tiles of rows in shared memory: one in use, the others on their way
};

struct WeightsParams {
  Sizes sizes;  // value_width is 0
  Rows rows;
  Query query;
  const void* lse;  // [G, B, H], contiguous, float; double where the dtype is double
  void* weights;    // [G, B, H, U], contiguous, dtype of lse
  Report report;
};

struct NGramParams {
  void* lprobs;        // [N, vocabulary] of a Dtype, contiguous last dimension
  int64_t lprobs_row;  // stride
  int64_t vocabulary;
  const int64_t* tokens;  // int64 [N, columns], contiguous last dimension
  int64_t tokens_row;     // stride
  const bool* forced;     // bool [N], contiguous, or null
  int64_t sequences;      // N
  int64_t size;           // of the n-grams, at least 1
  int64_t length;         // of each sequence, its first token included
  Report report;
};

struct LogSumExpParams {
  const void* logits;  // [rows, vocabulary] of a Dtype, contiguous last dimension
  int64_t logits_row;  // stride
  int64_t vocabulary;
  int64_t rows;
  void* lse;  // [rows], contiguous, float; double where the dtype is double
};

struct CandidateParams {
  const void* logits;  // [sentences * beam, vocabulary] of a Dtype, contiguous last dimension
  int64_t logits_row;  // stride
  int64_t vocabulary;
  const void* lse;     // [sentences * beam], contiguous, float; double where the dtype is double
  const void* scores;  // as lse
  int64_t sentences;
  int64_t beam;
  int64_t k;  // 1 to kMaxCandidates
};

// Lists of candidates, best first. A = float, or double where the dtype is double.
struct Lists {
  void* values;    // A [lists, k]; -inf where a list is shorter
  int64_t* index;  // int64 [lists, k], of the candidates of a sentence
};

}  // namespace el_attention::cuda
