// Vectors, scratch memory and the rows of a task: what all kernels of one instruction set share.
//
// No static data and little of the standard library: this is compiled with instructions that the
// machine may lack, and nothing of it may end up in code that runs everywhere.
#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <cmath>
#include <limits>

#include "../../integers.h"
#include "table.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
using Vec = at::vec::Vectorized<Accumulate<T>>;

constexpr int64_t kCacheLine = 64;  // bytes

// choose(a zero of the dtype).
template <typename Choose>
auto& for_dtype(c10::ScalarType dtype, const Choose& choose) {
  switch (dtype) {
    case c10::ScalarType::Double:
      return choose(double{});
    case c10::ScalarType::Float:
      return choose(float{});
    case c10::ScalarType::Half:
      return choose(at::Half{});
    default:  // as the operators have made sure
      return choose(at::BFloat16{});
  }
}

template <typename A>
constexpr A minus_infinity() {
  return -std::numeric_limits<A>::infinity();
}

// Loads a vector of elements, in the accumulation dtype.
inline Vec<double> load(const double* p) { return Vec<double>::loadu(p); }
inline Vec<float> load(const float* p) { return Vec<float>::loadu(p); }
inline Vec<float> load(const at::Half* p) {
  Vec<float> v;
  at::vec::load_fp32_from_fp16(p, v);
  return v;
}
inline Vec<float> load(const at::BFloat16* p) {
  Vec<float> v;
  at::vec::load_fp32_from_bf16(p, v);
  return v;
}

// Loads at most the first n elements, followed by zeros; reads nothing beyond them.
template <typename T>
Vec<T> load(const T* p, int64_t n) {
  if (n >= Vec<T>::size()) return load(p);
  Accumulate<T> lanes[Vec<T>::size()] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = static_cast<Accumulate<T>>(p[i]);
  return Vec<T>::loadu(lanes);
}

// Stores at most the first n lanes.
template <typename T>
void store(const Vec<T>& v, T* p, int64_t n) {
  if constexpr (std::is_same_v<T, Accumulate<T>>) {
    if (n >= Vec<T>::size()) return v.store(p);
  }
  Accumulate<T> lanes[Vec<T>::size()];
  v.store(lanes);
  for (int64_t i = 0; i < std::min<int64_t>(n, Vec<T>::size()); ++i)
    p[i] = static_cast<T>(lanes[i]);
}

template <typename A>
A sum(const at::vec::Vectorized<A>& v) {
  return at::vec::vec_reduce_all<A>(std::plus<at::vec::Vectorized<A>>(), v);
}

template <typename A>
A maximum(const at::vec::Vectorized<A>& v) {
  using V = at::vec::Vectorized<A>;
  return at::vec::vec_reduce_all<A>([](const V& x, const V& y) { return at::vec::maximum(x, y); },
                                    v);
}

// out[i] = the sum of the lanes of v[i].
template <typename V, typename A>
void store_sums(const V (&v)[4], A* out) {
  for (int64_t i = 0; i < 4; ++i) {
    A lanes[V::size()];
    v[i].store(lanes);
    out[i] = lanes[0];
    for (int64_t lane = 1; lane < V::size(); ++lane) out[i] += lanes[lane];
  }
}
#if defined(CPU_CAPABILITY_AVX512)
inline void store_sums(const Vec<float> (&v)[4], float* out) {
  const __m512 v01 =
      _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44), _mm512_shuffle_f32x4(v[0], v[1], 0xEE));
  const __m512 v23 =
      _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44), _mm512_shuffle_f32x4(v[2], v[3], 0xEE));
  // Four quarters, one for each of v.
  __m512 sums =
      _mm512_add_ps(_mm512_shuffle_f32x4(v01, v23, 0x88), _mm512_shuffle_f32x4(v01, v23, 0xDD));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0x4E));
  sums = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0xB1));
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sums)));
}
#elif defined(CPU_CAPABILITY_AVX2)
inline void store_sums(const Vec<float> (&v)[4], float* out) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
}
#endif

// Where a beam has seen nothing yet, its maximum is -inf, and -inf - (-inf) would be NaN.
template <typename A>
A finite_or_zero(A maximum) {
  return maximum == minus_infinity<A>() ? A(0) : maximum;
}

// Hands out parts of a thread's scratch memory. Without memory it only counts.
template <typename A>
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<A*>(memory)) {}

  template <typename T = A>
  T* take(int64_t count) {
    A* part = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), kCacheLine) /
             static_cast<int64_t>(sizeof(A));
    return reinterpret_cast<T*>(part);
  }
  int64_t used() const { return used_; }

 private:
  A* memory_;
  int64_t used_ = 0;
};

// Queries of one sentence that share a kv head, M = B * (heads that share one).
inline int64_t queries_per_kv_head(const Sizes& sizes) {
  return sizes.beam * sizes.heads / sizes.kv_heads;
}

// The place of query m of kv head k in [G, B, H].
inline int64_t query_index(const Sizes& sizes, int64_t group, int64_t k, int64_t m) {
  const int64_t sharing = sizes.heads / sizes.kv_heads;
  return (group * sizes.beam + m / sharing) * sizes.heads + k * sharing + m % sharing;
}

// A row of a sentence.
template <typename T>
struct Row {
  const T* key;                  // of kv head 0, [W]
  const T* value;                // of kv head 0, [V]
  int64_t key_head, value_head;  // from one kv head to the next
  int64_t index;                 // in [0, U)
};

// The rows of a range that some beam of the sentence sees. No other row is ever read.
template <typename T>
struct SeenRows {
  Row<T>* row;  // [count]
  int64_t count;
  bool by_all;  // every beam sees every one of them

  SeenRows(const AttendParams& params, const Layout& layout, int64_t group, int64_t range,
           Arena<Accumulate<T>>& arena)
      : row(arena.template take<Row<T>>(layout.range)), count(0), by_all(true) {
    const int64_t begin = range * layout.range;
    const int64_t end = std::min(begin + layout.range, params.sizes.rows);
    const bool* visible = params.rows.visible + group * params.rows.visible_group;
    const int64_t beams = params.rows.visible_beam == 0 ? 1 : params.sizes.beam;
    int64_t start = 0;
    for (int64_t i = 0; i < params.rows.segment_count; ++i) {
      const Segment& segment = params.rows.segments[i];
      const T* key =
          static_cast<const T*>(segment.keys) + segment.columns[group] * segment.key.column;
      const T* value =
          static_cast<const T*>(segment.values) + segment.columns[group] * segment.value.column;
      const int64_t stop = std::min(end, start + segment.rows);
      for (int64_t u = std::max(begin, start); u < stop; ++u) {
        if (params.rows.visible != nullptr) {
          int64_t seeing = 0;
          for (int64_t b = 0; b < beams; ++b) seeing += visible[b * params.rows.visible_beam + u];
          if (seeing == 0) continue;
          by_all &= seeing == beams;
        }
        row[count++] = {key + (u - start) * segment.key.row,
                        value + (u - start) * segment.value.row, segment.key.head,
                        segment.value.head, u};
      }
      start += segment.rows;
    }
  }
};

// Whether query m of a kv head sees a row.
inline bool sees(const AttendParams& params, int64_t group, int64_t m, int64_t index) {
  const int64_t beam = m / (params.sizes.heads / params.sizes.kv_heads);
  return params.rows
      .visible[group * params.rows.visible_group + beam * params.rows.visible_beam + index];
}

// The bias of a head of a sentence, [U]; there must be one.
template <typename A>
const A* bias_of(const AttendParams& params, int64_t group, int64_t head) {
  return static_cast<const A*>(params.rows.bias) + group * params.rows.bias_group +
         head * params.rows.bias_head;
}

// A partial result: the attention of a sentence to one range.
template <typename A>
struct Partial {
  A* context;  // [K, query_stride, value_stride], not yet divided by `sum`
  A* maximum;  // [K, query_stride], of the scores
  A* sum;      // [K, query_stride], of exp(score - maximum)

  Partial(const AttendParams& params, const Layout& layout, void* memory)
      : context(static_cast<A*>(memory)),
        maximum(context + params.sizes.kv_heads * layout.query_stride * layout.value_stride),
        sum(maximum + params.sizes.kv_heads * layout.query_stride) {}

  // Makes it that of no rows; the context only where nothing will be written over it.
  void clear(const AttendParams& params, const Layout& layout, bool with_context) const {
    const int64_t queries = params.sizes.kv_heads * layout.query_stride;
    if (with_context) std::fill_n(context, queries * layout.value_stride, A(0));
    std::fill_n(maximum, queries, minus_infinity<A>());
    std::fill_n(sum, queries, A(0));
  }
};

}  // namespace
}  // namespace el_attention::cpu::CPU_CAPABILITY
