// Runs the attention kernels through their launcher, csrc/cuda/launch.h.
//
// operator=attend | weights | block_ngrams. For attend: kernel=expanded_query | simt | best, and
// splits, 0 for the launcher's choice; the plan goes to the output `plan`.
#include <algorithm>

#include "../../../csrc/cuda/device.cu"
#include "../../../csrc/cuda/launch.cu"
#include "../../../csrc/cuda/report.cpp"
#include "driver.h"

using namespace el_attention;
using namespace el_attention::cuda;

namespace {

using Driver = testing::Driver;

Sizes sizes_of(const Driver& driver) {
  return {driver.integer("groups"),   driver.integer("beam"),  driver.integer("heads"),
          driver.integer("kv_heads"), driver.integer("width"), driver.integer("value_width"),
          driver.integer("rows")};
}

Strides strides_of(const Driver& driver, const std::string& name) {
  return {driver.integer(name + "_row"), driver.integer(name + "_column"),
          driver.integer(name + "_head")};
}

const void* array_of(Driver& driver, const std::string& name, Dtype dtype) {
  return driver.input<char>(name) + driver.integer(name + "_offset") * bytes_of(dtype);
}

Query query_of(Driver& driver, Dtype dtype) {
  return {array_of(driver, "query", dtype), driver.integer("query_group"),
          driver.integer("query_beam"), driver.integer("query_head")};
}

Report report_of(Driver& driver, Argument argument) {
  auto* const word = driver.scratch<uint64_t>("word", 1);
  *word = 0;
  return {word, argument};
}

// Writes the message of what was reported to the output `report`, up to its first 0.
void write_report(Driver& driver, const Report& report) {
  constexpr size_t kBytes = 256;
  const std::string message = take_report(report.word);
  if (*report.word != 0) throw std::logic_error("a report was taken and is still there");
  auto* const text = driver.output<char>("report", kBytes);
  std::fill_n(text, kBytes, '\0');
  std::copy_n(message.begin(), std::min(message.size(), kBytes - 1), text);
}

Rows rows_of(Driver& driver, Dtype dtype, bool with_values) {
  Rows rows{};
  rows.segment_count = driver.integer("segments");
  for (int i = 0; i < rows.segment_count; ++i) {
    Segment& segment = rows.segments[i];
    const std::string keys = "keys" + std::to_string(i), values = "values" + std::to_string(i);
    segment.rows = driver.integer(keys + "_rows");
    segment.column_count = driver.integer(keys + "_columns");
    segment.columns = driver.input<int64_t>("columns" + std::to_string(i));
    segment.keys = array_of(driver, keys, dtype);
    segment.key = strides_of(driver, keys);
    if (!with_values) continue;
    const bool own = driver.has(values);
    segment.values = own ? array_of(driver, values, dtype) : segment.keys;
    segment.value = own ? strides_of(driver, values) : segment.key;
  }
  if (driver.has("visible")) {
    rows.visible = driver.input<bool>("visible");
    rows.visible_group = driver.integer("visible_group");
    rows.visible_beam = driver.integer("visible_beam");
  }
  if (driver.has("bias")) {
    rows.bias = array_of(driver, "bias", dtype == Dtype::kFloat64 ? dtype : Dtype::kFloat32);
    rows.bias_group = driver.integer("bias_group");
    rows.bias_head = driver.integer("bias_head");
  }
  return rows;
}

void attend(Driver& driver) {
  const Dtype dtype = driver.dtype();
  const Sizes sizes = sizes_of(driver);
  const size_t queries = sizes.groups * sizes.beam * sizes.heads;
  const size_t wide = dtype == Dtype::kFloat64 ? 8 : 4;
  AttendParams params{};
  params.sizes = sizes;
  params.rows = rows_of(driver, dtype, true);
  params.query = query_of(driver, dtype);
  params.report = report_of(driver, Argument::kAttendColumns);
  params.context = driver.output<char>("context", queries * sizes.value_width * bytes_of(dtype));
  params.lse = driver.output<char>("lse", queries * wide);

  const Device device = current_device();
  const std::string kernel = driver.text("kernel");
  const int splits = static_cast<int>(driver.integer("splits"));
  AttendPlan plan;
  if (kernel == "best") {
    plan = plan_attend(params, dtype, device);
  } else {
    const Kernel chosen = kernel == "simt" ? Kernel::kSimt : Kernel::kExpandedQuery;
    const std::string reason = unsupported(chosen, params, dtype, device);
    if (!reason.empty()) throw std::invalid_argument(kernel + ": " + reason);
    plan = plan_attend(chosen, params, dtype, device, splits);
  }
  int* numbers = driver.output<int>("plan", 8);
  numbers[0] = plan.kernel == Kernel::kExpandedQuery;
  numbers[1] = plan.queries;
  numbers[2] = static_cast<int>(plan.shape);
  numbers[3] = plan.grid.row_groups;
  numbers[4] = plan.grid.stages;
  numbers[5] = plan.splits;
  numbers[6] = static_cast<int>(plan.shared_bytes);
  numbers[7] = plan.vector;
  void* scratch =
      plan.scratch_bytes == 0 ? nullptr : driver.scratch<char>("scratch", plan.scratch_bytes);
  launch_attend(plan, params, dtype, scratch, nullptr);
  write_report(driver, params.report);
}

void weights(Driver& driver) {
  const Dtype dtype = driver.dtype();
  WeightsParams params{};
  params.sizes = sizes_of(driver);
  params.rows = rows_of(driver, dtype, false);
  params.query = query_of(driver, dtype);
  params.report = report_of(driver, Argument::kWeightsColumns);
  params.lse = driver.input<char>("lse");
  const Sizes& sizes = params.sizes;
  params.weights =
      driver.output<char>("weights", sizes.groups * sizes.beam * sizes.heads * sizes.rows *
                                         (dtype == Dtype::kFloat64 ? 8 : 4));
  launch_weights(params, dtype, current_device(), nullptr);
  write_report(driver, params.report);
}

void block_ngrams(Driver& driver) {
  NGramParams params{};
  params.lprobs = driver.in_out<char>("lprobs");
  params.vocabulary = driver.integer("vocabulary");
  params.lprobs_row = driver.integer("lprobs_row");
  params.tokens = driver.input<int64_t>("tokens");
  params.tokens_row = driver.integer("tokens_row");
  if (driver.has("forced")) params.forced = driver.input<bool>("forced");
  params.sequences = driver.integer("sequences");
  params.size = driver.integer("size");
  params.length = driver.integer("length");
  params.report = report_of(driver, Argument::kNGramTokens);
  launch_block_ngrams(params, driver.dtype(), nullptr);
  write_report(driver, params.report);
}

}  // namespace

int main(int count, char** arguments) {
  return testing::run_driver(count, arguments, [](Driver& driver) {
    const std::string name = driver.text("operator");
    if (name == "attend") {
      attend(driver);
    } else if (name == "weights") {
      weights(driver);
    } else if (name == "block_ngrams") {
      block_ngrams(driver);
    } else {
      throw std::invalid_argument("operator: " + name);
    }
  });
}
