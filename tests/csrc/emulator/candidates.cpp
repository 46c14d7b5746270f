// Runs the kernels of a search through their launcher, csrc/cuda/launch_candidates.cu.
//
// operator=log_sum_exp | top_candidates.
#include "../../../csrc/cuda/device.cu"
#include "../../../csrc/cuda/launch_candidates.cu"
#include "driver.h"

using namespace el_attention;
using namespace el_attention::cuda;

namespace {

using Driver = testing::Driver;

void* scratch_of(Driver& driver, size_t bytes) {
  return bytes == 0 ? nullptr : driver.scratch<char>("scratch", bytes);
}

const void* logits_of(Driver& driver, Dtype dtype) {
  return driver.input<char>("logits") + driver.integer("logits_offset") * bytes_of(dtype);
}

void sums(Driver& driver) {
  const Dtype dtype = driver.dtype();
  LogSumExpParams params{};
  params.logits = logits_of(driver, dtype);
  params.logits_row = driver.integer("logits_row");
  params.vocabulary = driver.integer("vocabulary");
  params.rows = driver.integer("rows");
  void* scratch = scratch_of(driver, log_sum_exp_scratch(params, dtype));
  params.lse = driver.output<char>("lse", params.rows * wide_bytes(dtype));
  launch_log_sum_exp(params, dtype, scratch, nullptr);
}

void top(Driver& driver) {
  const Dtype dtype = driver.dtype();
  CandidateParams params{};
  params.logits = logits_of(driver, dtype);
  params.logits_row = driver.integer("logits_row");
  params.vocabulary = driver.integer("vocabulary");
  params.lse = driver.input<char>("lse");
  params.scores = driver.input<char>("scores");
  params.beam = driver.integer("beam");
  params.sentences = driver.integer("rows") / params.beam;
  params.k = driver.integer("k");
  const Device device = current_device();
  void* scratch = scratch_of(driver, candidates_scratch(params, dtype, device));
  const int64_t count = params.sentences * params.k;
  const Lists best{driver.output<char>("values", count * wide_bytes(dtype)),
                   driver.output<int64_t>("index", count)};
  launch_candidates(params, dtype, device, best, scratch, nullptr);
}

}  // namespace

int main(int count, char** arguments) {
  return testing::run_driver(count, arguments, [](Driver& driver) {
    const std::string name = driver.text("operator");
    if (name == "log_sum_exp") {
      sums(driver);
    } else if (name == "top_candidates") {
      top(driver);
    } else {
      throw std::invalid_argument("operator: " + name);
    }
  });
}
