// The host side of the CUDA operators, compiled for CPU tensors with a launcher of its own: plain
// loops over what the kernels are given. Registers el_attention_host::*.

#include <ATen/Functions.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

// From here on names are ours: torch's headers are in.
#define CUDA CPU
#define el_attention el_attention_host

#include "../../../csrc/cuda/attend.cpp"
#include "../../../csrc/cuda/candidates.cpp"
#include "../../../csrc/cuda/ngrams.cpp"
#include "../../../csrc/cuda/report.cpp"

namespace el_attention::cuda {
namespace {

constexpr size_t kScratch = 48;

c10::ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64:
      return at::kDouble;
    case Dtype::kFloat32:
      return at::kFloat;
    case Dtype::kFloat16:
      return at::kHalf;
    default:
      return at::kBFloat16;
  }
}

// Numbers of a dtype in memory.
struct Array {
  void* data;
  c10::ScalarType type;

  Array(const void* array, Dtype dtype)
      : data(const_cast<void*>(array)), type(scalar_type(dtype)) {}

  double operator[](int64_t i) const {
    switch (type) {
      case at::kDouble:
        return static_cast<double*>(data)[i];
      case at::kFloat:
        return static_cast<float*>(data)[i];
      case at::kHalf:
        return static_cast<c10::Half*>(data)[i];
      default:
        return static_cast<c10::BFloat16*>(data)[i];
    }
  }

  void set(int64_t i, double value) const {
    switch (type) {
      case at::kDouble:
        static_cast<double*>(data)[i] = value;
        break;
      case at::kFloat:
        static_cast<float*>(data)[i] = static_cast<float>(value);
        break;
      case at::kHalf:
        static_cast<c10::Half*>(data)[i] = static_cast<float>(value);
        break;
      default:
        static_cast<c10::BFloat16*>(data)[i] = static_cast<float>(value);
    }
  }
};

Dtype wide(Dtype dtype) { return dtype == Dtype::kFloat64 ? dtype : Dtype::kFloat32; }

void check_launch(Stream stream, int64_t size) {
  TORCH_CHECK(size > 0, "an empty launch");
  TORCH_CHECK(stream == c10::cuda::getCurrentCUDAStream(), "not the current stream");
  TORCH_CHECK(c10::cuda::CUDAGuard::current == 1, "no device guard");
}

void report_value(const Report& report, int64_t value) {
  *report.word = uint64_t(report.argument) << kArgumentShift |
                 (uint64_t(value) & ((uint64_t{1} << kArgumentShift) - 1));
}

// The bias of a row, or 0.
double bias_of(const Rows& rows, Dtype dtype, int64_t group, int64_t head, int64_t row) {
  if (rows.bias == nullptr) return 0;
  return Array(rows.bias, wide(dtype))[group * rows.bias_group + head * rows.bias_head + row];
}

// Calls f(row, segment, its row in the segment, column of the sentence) for the rows that a beam
// sees.
template <typename F>
void each_seen(const Rows& rows, const Report& report, int64_t group, int64_t beam, F f) {
  int64_t row = 0;
  for (int64_t i = 0; i < rows.segment_count; ++i) {
    const Segment& segment = rows.segments[i];
    const int64_t column = segment.columns[group];
    if (column < 0 || column >= segment.column_count) return report_value(report, column);
    for (int64_t r = 0; r < segment.rows; ++r, ++row) {
      if (!rows.visible ||
          rows.visible[group * rows.visible_group + beam * rows.visible_beam + row]) {
        f(row, segment, r, column);
      }
    }
  }
}

int64_t position(const Strides& strides, int64_t row, int64_t column, int64_t head) {
  return row * strides.row + column * strides.column + head * strides.head;
}

// Calls f(group, beam, head, kv head, position in [G, B, H]) for each query.
template <typename F>
void each_query(const Sizes& sizes, F f) {
  for (int64_t q = 0; q < sizes.groups * sizes.beam * sizes.heads; ++q) {
    const int64_t head = q % sizes.heads;
    f(q / sizes.heads / sizes.beam, q / sizes.heads % sizes.beam, head,
      head * sizes.kv_heads / sizes.heads, q);
  }
}

// The score of query `q`, as each_query counts them.
double score_of(const Sizes& sizes, const Query& query, Dtype dtype, int64_t q, const Array& keys,
                int64_t key) {
  const Array elements(query.data, dtype);
  const int64_t first = q / sizes.heads / sizes.beam * query.group +
                        q / sizes.heads % sizes.beam * query.beam + q % sizes.heads * query.head;
  double score = 0;
  for (int64_t w = 0; w < sizes.width; ++w) score += elements[first + w] * keys[key + w];
  return score;
}

}  // namespace

uint64_t* report_word() {
  static uint64_t word = 0;
  return &word;
}

Device current_device() { return {80, 108, 163 * 1024, 164 * 1024}; }

AttendPlan plan_attend(const AttendParams&, Dtype, const Device&) {
  AttendPlan plan{};
  plan.scratch_bytes = kScratch;
  return plan;
}

void launch_attend(const AttendPlan&, const AttendParams& params, Dtype dtype, void* scratch,
                   Stream stream) {
  check_launch(stream, params.sizes.rows);
  std::fill_n(static_cast<char*>(scratch), kScratch, char(-1));
  const Sizes& sizes = params.sizes;
  const Array context(params.context, dtype);
  const Array lse(params.lse, wide(dtype));
  each_query(sizes, [&](int64_t group, int64_t beam, int64_t head, int64_t kv_head, int64_t q) {
    double sum = 0;
    std::vector<double> mean(sizes.value_width, 0.0);
    each_seen(params.rows, params.report, group, beam,
              [&](int64_t u, const Segment& segment, int64_t r, int64_t c) {
                const Array keys(segment.keys, dtype), values(segment.values, dtype);
                const double weight = std::exp(score_of(sizes, params.query, dtype, q, keys,
                                                        position(segment.key, r, c, kv_head)) +
                                               bias_of(params.rows, dtype, group, head, u));
                sum += weight;
                const int64_t value = position(segment.value, r, c, kv_head);
                for (int64_t v = 0; v < sizes.value_width; ++v)
                  mean[v] += weight * values[value + v];
              });
    lse.set(q, std::log(sum));
    for (int64_t v = 0; v < sizes.value_width; ++v) {
      context.set(q * sizes.value_width + v, sum > 0 ? mean[v] / sum : 0.0);
    }
  });
}

void launch_weights(const WeightsParams& params, Dtype dtype, const Device&, Stream stream) {
  check_launch(stream, params.sizes.rows);
  const Sizes& sizes = params.sizes;
  const Array lse(params.lse, wide(dtype));
  const Array weights(params.weights, wide(dtype));
  each_query(sizes, [&](int64_t group, int64_t beam, int64_t head, int64_t kv_head, int64_t q) {
    for (int64_t u = 0; u < sizes.rows; ++u) weights.set(q * sizes.rows + u, 0.0);
    each_seen(
        params.rows, params.report, group, beam,
        [&](int64_t u, const Segment& segment, int64_t r, int64_t c) {
          const Array keys(segment.keys, dtype);
          const double score =
              score_of(sizes, params.query, dtype, q, keys, position(segment.key, r, c, kv_head)) +
              bias_of(params.rows, dtype, group, head, u);
          weights.set(q * sizes.rows + u, std::exp(score - (std::isinf(lse[q]) ? 0 : lse[q])));
        });
  });
}

void launch_block_ngrams(const NGramParams& params, Dtype dtype, Stream stream) {
  check_launch(stream, params.sequences);
  const Array lprobs(params.lprobs, dtype);
  for (int64_t n = 0; n < params.sequences; ++n) {
    if (params.forced && params.forced[n]) continue;
    const int64_t* tokens = params.tokens + n * params.tokens_row;
    const int64_t* last = tokens + params.length - (params.size - 1);
    for (const int64_t* first = tokens + 1; first + params.size <= tokens + params.length;
         ++first) {
      if (!std::equal(last, tokens + params.length, first)) continue;
      const int64_t token = first[params.size - 1];
      if (token < 0 || token >= params.vocabulary) {
        report_value(params.report, token);
        continue;
      }
      lprobs.set(n * params.lprobs_row + token, -std::numeric_limits<double>::infinity());
    }
  }
}

size_t log_sum_exp_scratch(const LogSumExpParams&, Dtype) { return kScratch; }

size_t candidates_scratch(const CandidateParams&, Dtype, const Device&) { return kScratch; }

void launch_log_sum_exp(const LogSumExpParams& params, Dtype dtype, void* scratch, Stream stream) {
  check_launch(stream, params.rows * params.vocabulary);
  std::fill_n(static_cast<char*>(scratch), kScratch, char(-1));
  const Array logits(params.logits, dtype), lse(params.lse, wide(dtype));
  for (int64_t row = 0; row < params.rows; ++row) {
    double sum = 0;
    for (int64_t word = 0; word < params.vocabulary; ++word) {
      sum += std::exp(logits[row * params.logits_row + word]);
    }
    lse.set(row, std::log(sum));
  }
}

void launch_candidates(const CandidateParams& params, Dtype dtype, const Device&, const Lists& best,
                       void* scratch, Stream stream) {
  check_launch(stream, params.sentences);
  std::fill_n(static_cast<char*>(scratch), kScratch, char(-1));
  const Array logits(params.logits, dtype), lse(params.lse, wide(dtype));
  const Array scores(params.scores, wide(dtype)), values(best.values, wide(dtype));
  for (int64_t sentence = 0; sentence < params.sentences; ++sentence) {
    std::vector<double> all;
    for (int64_t row = sentence * params.beam; row < (sentence + 1) * params.beam; ++row) {
      for (int64_t word = 0; word < params.vocabulary; ++word) {
        double value = logits[row * params.logits_row + word] - lse[row];
        if (dtype != Dtype::kFloat64) value = static_cast<float>(value);
        value += scores[row];
        all.push_back(dtype == Dtype::kFloat64 ? value : static_cast<float>(value));
      }
    }
    std::vector<int64_t> order(all.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return all[a] > all[b]; });
    for (int64_t i = 0; i < params.k; ++i) {
      values.set(sentence * params.k + i, all[order[i]]);
      best.index[sentence * params.k + i] = order[i];
    }
  }
}

}  // namespace el_attention::cuda
