#include "report.h"

namespace el_attention::cuda {

namespace {

// In the order of Argument, which begins with 1.
constexpr const char* kExpected[] = {
    "attend: columns: expected [0, C), the columns of their segment",
    "weights: columns: expected [0, C), the columns of their segment",
    "block_ngrams_: tokens: expected [0, vocabulary)",
};

}  // namespace

std::string take_report(uint64_t* word) {
  // A kernel may write at any time: what is read is what is cleared.
  const uint64_t report = __atomic_exchange_n(word, uint64_t{0}, __ATOMIC_RELAXED);
  if (report == 0) return "";
  const char* what = kExpected[(report >> kArgumentShift) - 1];
  const auto value = static_cast<int64_t>(report << (64 - kArgumentShift)) >> (64 - kArgumentShift);
  return std::string(what) + ", got " + std::to_string(value) +
         ". It was in an earlier call, which did not wait for the device to find it: its results " +
         "for that sentence are not valid (contexts and weights are NaN)";
}

}  // namespace el_attention::cuda
