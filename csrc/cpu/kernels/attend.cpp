// The kernels of attention, and which one takes how many queries.

#include "few_queries.h"
#include "many_queries.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// From here on two matrix products are faster than products that read every row in place.
constexpr int64_t kManyQueries = 12;

// Tasks of a call, about: enough for most machines' threads, so few that partial results are small.
// A task writes a context of its own, which is worth that of many rows of the expanded query.
constexpr int64_t kTasks = 64, kManyQueriesTasks = 32;

template <typename T>
Layout layout(const AttendParams& params, bool only_scores) {
  using A = Accumulate<T>;
  const Sizes& sizes = params.sizes;
  Layout layout{};
  layout.many_queries = !only_scores && queries_per_kv_head(sizes) >= kManyQueries;
  const int64_t tasks = layout.many_queries ? kManyQueriesTasks : kTasks;
  const int64_t least = layout.many_queries ? 576 : 128, most = 4 * least;
  const int64_t even = round_up(std::max<int64_t>(sizes.groups * sizes.rows / tasks, 1), 32);
  layout.range = std::min(std::max(even, least), most);
  layout.ranges = divide_up(sizes.rows, layout.range);
  layout.many_queries ? ManyQueries<T>::fill_layout(params, layout)
                      : FewQueries<T>::fill_layout(params, layout);
  layout.partial = sizes.kv_heads * layout.query_stride * (layout.value_stride + 2);
  layout.partial = round_up(layout.partial, kCacheLine / static_cast<int64_t>(sizeof(A)));
  layout.packed_query = round_up(layout.packed_query, kCacheLine / static_cast<int64_t>(sizeof(A)));
  Arena<A> arena(nullptr);
  arena.template take<Row<T>>(layout.range);
  if (layout.many_queries) {
    ManyQueries<T>(params, layout, 0, nullptr, arena);
  } else {
    FewQueries<T>(params, layout, 0, nullptr, arena);
  }
  layout.scratch = arena.used();
  return layout;
}

template <typename T>
void pack_query(const AttendParams& params, const Layout& layout, int64_t group, void* packed) {
  auto* out = static_cast<Accumulate<T>*>(packed);
  layout.many_queries ? ManyQueries<T>::pack_query(params, group, out)
                      : FewQueries<T>::pack_query(params, group, out);
}

template <typename T>
void attend(const AttendParams& params, const Layout& layout, int64_t group, int64_t range,
            const void* packed, void* memory, void* scratch) {
  using A = Accumulate<T>;
  Arena<A> arena(scratch);
  const Partial<A> partial(params, layout, memory);
  const SeenRows<T> rows(params, layout, group, range, arena);
  if (layout.many_queries) {
    ManyQueries<T>(params, layout, group, packed, arena).attend(rows, partial);
  } else {
    FewQueries<T>(params, layout, group, packed, arena).attend(rows, partial);
  }
}

template <typename T>
bool combine(const AttendParams& params, const Layout& layout, int64_t group, void* partials,
             void* context_out, void* lse_out) {
  using A = Accumulate<T>;
  const Sizes& sizes = params.sizes;
  const auto part = [&](int64_t range) {
    return Partial<A>(params, layout, static_cast<A*>(partials) + range * layout.partial);
  };
  Vec<T> zeros(A(0));  // the sum of 0 x context
  for (int64_t k = 0; k < sizes.kv_heads; ++k) {
    for (int64_t m = 0; m < queries_per_kv_head(sizes); ++m) {
      const int64_t query = k * layout.query_stride + m, out = query_index(sizes, group, k, m);
      A highest = minus_infinity<A>();
      for (int64_t r = 0; r < layout.ranges; ++r) {
        const A maximum = part(r).maximum[query];
        if (!(maximum <= highest)) highest = maximum;  // NaN, too
      }
      A total = 0;
      for (int64_t r = 0; r < layout.ranges; ++r) {
        A& maximum = part(r).maximum[query];
        maximum = std::exp(maximum - finite_or_zero(highest));
        total += maximum * part(r).sum[query];
      }
      static_cast<A*>(lse_out)[out] = highest + std::log(total);
      const A divisor = highest == minus_infinity<A>() ? A(1) : total;
      T* context = static_cast<T*>(context_out) + out * sizes.value_width;
      for (int64_t v = 0; v < sizes.value_width; v += Vec<T>::size()) {
        Vec<T> mean(A(0));
        for (int64_t r = 0; r < layout.ranges; ++r) {
          const A* from = part(r).context + query * layout.value_stride + v;
          mean = at::vec::fmadd(Vec<T>::loadu(from), Vec<T>(part(r).maximum[query]), mean);
        }
        mean = mean / Vec<T>(divisor);
        zeros = at::vec::fmadd(mean, Vec<T>(A(0)), zeros);
        store(mean, context + v, sizes.value_width - v);
      }
    }
  }
  return sum(zeros) == 0;
}

template <typename T>
void weights(const AttendParams& params, const Layout& layout, int64_t group, int64_t range,
             const void* packed, const void* lse, void* weights, void* scratch) {
  using A = Accumulate<T>;
  const Sizes& sizes = params.sizes;
  Arena<A> arena(scratch);
  const SeenRows<T> rows(params, layout, group, range, arena);
  FewQueries<T> kernel(params, layout, group, packed, arena);
  int64_t count = 0;
  for (int64_t first = 0; first < rows.count; first += count) {
    count = kernel.score(rows, first, /*then_values=*/false);
    for (int64_t k = 0; k < sizes.kv_heads; ++k) {
      for (int64_t m = 0; m < queries_per_kv_head(sizes); ++m) {
        const int64_t query = query_index(sizes, group, k, m);
        const A base = finite_or_zero(static_cast<const A*>(lse)[query]);
        A* out = static_cast<A*>(weights) + query * sizes.rows;
        for (int64_t t = 0; t < count; ++t) {
          out[rows.row[first + t].index] = std::exp(kernel.score_of(k, m, t) - base);
        }
      }
    }
  }
}

template <typename T>
constexpr AttendKernels kKernels = {layout<T>, pack_query<T>, attend<T>, combine<T>, weights<T>};

}  // namespace

const AttendKernels& attend_kernels(c10::ScalarType dtype) {
  return for_dtype(dtype, [](auto zero) -> auto& { return kKernels<decltype(zero)>; });
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
