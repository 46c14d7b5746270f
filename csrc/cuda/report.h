// Arguments that only a kernel can see to be wrong: an index in a tensor of a device. A kernel
// neither stops nor reads there; it leaves one word in the host's memory, and the next call of an
// operator on the device raises it, without waiting for the device.
#pragma once

#include <cstdint>
#include <string>

namespace el_attention::cuda {

// From 1 on, so that no report is 0.
enum class Argument : uint8_t { kAttendColumns = 1, kWeightsColumns, kNGramTokens };

// Where a kernel reports, and what of.
struct Report {
  uint64_t* word;  // in the host's memory; 0 while there is nothing to report
  Argument argument;
};

constexpr int kArgumentShift = 56;  // above it the argument, below it the value, sign included

// Where kernels on the current device report; one word for each device.
uint64_t* report_word();

// What was reported in a word, which is cleared; empty for nothing.
std::string take_report(uint64_t* word);

}  // namespace el_attention::cuda
