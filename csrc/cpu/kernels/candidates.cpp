// The best of many candidates, and the sum that makes them probabilities.
//
// Bound by memory: logits are read in place, a vector at a time, and compared with the last of the
// best so far; few are better.
#include "common.h"

namespace el_attention::cpu::CPU_CAPABILITY {
namespace {

// ln(sum(exp(logit))); NaN where a logit is NaN.
template <typename T>
void log_sum_exp(const void* data, int64_t count, void* lse) {
  using A = Accumulate<T>;
  constexpr int64_t kLanes = Vec<T>::size();
  const T* logits = static_cast<const T*>(data);
  const int64_t vectors = count / kLanes * kLanes;
  A greatest = minus_infinity<A>();
  if (vectors > 0) {
    Vec<T> lanes(greatest);
    for (int64_t v = 0; v < vectors; v += kLanes) {
      lanes = at::vec::maximum(lanes, load(logits + v));
    }
    greatest = maximum(lanes);
  }
  for (int64_t v = vectors; v < count; ++v) {
    greatest = std::max(greatest, static_cast<A>(logits[v]));
  }
  // Differences between infinities would be NaN.
  const A base = std::isfinite(greatest) ? greatest : A(0);
  Vec<T> totals(A(0));
  for (int64_t v = 0; v < vectors; v += kLanes) {
    totals = totals + (load(logits + v) - Vec<T>(base)).exp();
  }
  A total = sum(totals);
  for (int64_t v = vectors; v < count; ++v) {
    total += std::exp(static_cast<A>(logits[v]) - base);
  }
  *static_cast<A*>(lse) = base + std::log(total);
}

// The best candidates so far, in order: of equal ones that which came first.
template <typename A>
class Best {
 public:
  Best(void* values, int64_t* index, int64_t k)
      : values_(static_cast<A*>(values)), index_(index), k_(k) {}

  bool full() const { return count_ == k_; }
  // What a candidate must exceed once there are k of them.
  A last() const { return values_[k_ - 1]; }

  // Takes a candidate, not NaN, if it is one of the best.
  void offer(A value, int64_t index) {
    if (full() && !(value > last())) return;
    int64_t place = full() ? k_ - 1 : count_++;
    for (; place > 0 && value > values_[place - 1]; --place) {
      values_[place] = values_[place - 1];
      index_[place] = index_[place - 1];
    }
    values_[place] = value;
    index_[place] = index;
  }

 private:
  A* values_;
  int64_t* index_;
  int64_t k_, count_ = 0;
};

// The candidates of one row of logits.
template <typename T>
struct CandidateRow {
  using A = Accumulate<T>;
  static constexpr int64_t kLanes = Vec<T>::size(), kStep = 4 * kLanes;

  const T* logits;
  A lse, score;
  int64_t first;  // index of token 0

  // In this order of operations everywhere, so that all implementations give the same bits.
  A value(int64_t token) const {
    const A value = (static_cast<A>(logits[token]) - lse) + score;
    return std::isnan(value) ? minus_infinity<A>() : value;
  }

  void offer(int64_t begin, int64_t end, Best<A>& best) const {
    for (int64_t token = begin; token < end; ++token) best.offer(value(token), first + token);
  }

  // Whether one of the kStep tokens from `token` on exceeds `last`; NaN does not.
  bool exceeds(int64_t token, A last) const {
    const Vec<T> base(lse), bonus(score), bar(last);
    Vec<T> over(A(0));
    for (int64_t v = token; v < token + kStep; v += kLanes) {
      over = over | (((load(logits + v) - base) + bonus) > bar);
    }
    return over.zero_mask() != (1 << kLanes) - 1;
  }

  void scan(int64_t begin, int64_t end, Best<A>& best) const {
    int64_t token = begin;
    for (; token < end && !best.full(); ++token) best.offer(value(token), first + token);
    for (; token + kStep <= end; token += kStep) {
      if (exceeds(token, best.last())) offer(token, token + kStep, best);
    }
    offer(token, end, best);
  }
};

template <typename T>
void top_candidates(const CandidateParams& params, int64_t group, int64_t begin, int64_t end,
                    void* values, int64_t* index) {
  using A = Accumulate<T>;
  Best<A> best(values, index, params.k);
  for (int64_t beam = begin / params.vocabulary; beam * params.vocabulary < end; ++beam) {
    const int64_t row = group * params.beam + beam, first = beam * params.vocabulary;
    const CandidateRow<T> candidates{static_cast<const T*>(params.logits) + row * params.logits_row,
                                     static_cast<const A*>(params.lse)[row],
                                     static_cast<const A*>(params.scores)[row], first};
    candidates.scan(std::max(begin - first, int64_t{0}), std::min(end - first, params.vocabulary),
                    best);
  }
}

template <typename T>
void merge_candidates(const void* values, const int64_t* index, int64_t count, int64_t k,
                      void* best_values, int64_t* best_index) {
  using A = Accumulate<T>;
  Best<A> best(best_values, best_index, k);
  for (int64_t i = 0; i < count; ++i) best.offer(static_cast<const A*>(values)[i], index[i]);
}

template <typename T>
constexpr CandidateKernels kKernels = {log_sum_exp<T>, top_candidates<T>, merge_candidates<T>};

}  // namespace

const CandidateKernels& candidate_kernels(c10::ScalarType dtype) {
  return for_dtype(dtype, [](auto zero) -> auto& { return kKernels<decltype(zero)>; });
}

}  // namespace el_attention::cpu::CPU_CAPABILITY
