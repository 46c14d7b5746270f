// Which kernel runs a call, and how: choice, scratch memory and launch. No torch in here.
#pragma once

#include <cstddef>
#include <string>

#include "device.h"
#include "params.h"

namespace el_attention::cuda {

enum class Kernel { kExpandedQuery, kSimt };

// The instances of `expanded_query`, by what a warp does: 16 queries, 32 queries, or 16 queries and
// more columns.
enum class ExpandedQueryShape { kOneRowTile, kTwoRowTiles, kWideSlice };

// How a call of `attend` is launched.
struct AttendPlan {
  Kernel kernel;
  ExpandedQueryShape shape;  // kExpandedQuery
  int queries;               // of a block
  WarpGrid grid;             // kExpandedQuery
  int vector;                // kSimt: elements that are loaded at once
  int splits;                // ranges of rows
  int split_rows;            // of each range but the last
  int blocks;                // of each range
  int threads;               // of a block
  size_t shared_bytes;       // of a block
  size_t scratch_bytes;      // global memory that the caller lends, 16-byte aligned
};

// Why a kernel cannot run a call on a device; empty where it can.
std::string unsupported(Kernel kernel, const AttendParams& params, Dtype dtype,
                        const Device& device);

// Plans for one kernel, against which there must be no reason.
//   splits: ranges of rows to aim at, or 0 for as many as pay.
AttendPlan plan_attend(Kernel kernel, const AttendParams& params, Dtype dtype, const Device& device,
                       int splits = 0);

// Plans for the best kernel that can run the call. Throws std::invalid_argument if none can.
AttendPlan plan_attend(const AttendParams& params, Dtype dtype, const Device& device);

// Everything below is asynchronous on `stream`, and throws std::runtime_error where a launch fails.

//   scratch: plan.scratch_bytes of global memory, until the stream is past the launch.
void launch_attend(const AttendPlan& plan, const AttendParams& params, Dtype dtype, void* scratch,
                   Stream stream);

// Throws std::invalid_argument if the device cannot run it.
void launch_weights(const WeightsParams& params, Dtype dtype, const Device& device, Stream stream);

void launch_block_ngrams(const NGramParams& params, Dtype dtype, Stream stream);

// Bytes of global memory that the two launches below are lent, 16-byte aligned, until the stream is
// past them. They throw std::invalid_argument where there are too many rows or tokens.
size_t log_sum_exp_scratch(const LogSumExpParams& params, Dtype dtype);
size_t candidates_scratch(const CandidateParams& params, Dtype dtype, const Device& device);

void launch_log_sum_exp(const LogSumExpParams& params, Dtype dtype, void* scratch, Stream stream);

//   best: one list for each sentence.
void launch_candidates(const CandidateParams& params, Dtype dtype, const Device& device,
                       const Lists& best, void* scratch, Stream stream);

}  // namespace el_attention::cuda
