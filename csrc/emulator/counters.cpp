#include "counters.h"

#include <algorithm>

namespace el_attention::emulator {

Wavefronts wavefronts(const uint64_t (&offsets)[kLanes], uint32_t lanes, int bytes) {
  const int words = std::max(bytes / kBankBytes, 1);
  const int lanes_at_once = kLanes / words;
  Wavefronts total{0, 0};
  for (int first = 0; first < kLanes; first += lanes_at_once) {
    uint64_t in_bank[kBanks][kLanes];  // the different words asked of each bank
    int in_bank_count[kBanks] = {};
    int busiest = 0;
    for (int lane = first; lane < first + lanes_at_once; ++lane) {
      if ((lanes >> lane & 1) == 0) continue;
      for (int i = 0; i < words; ++i) {
        const uint64_t word = offsets[lane] / kBankBytes + i;
        uint64_t* const begin = in_bank[word % kBanks];
        int& count = in_bank_count[word % kBanks];
        if (std::find(begin, begin + count, word) == begin + count) begin[count++] = word;
        busiest = std::max(busiest, count);
      }
    }
    total.count += busiest;
    total.conflicts += std::max(busiest - 1, 0);
  }
  return total;
}

}  // namespace el_attention::emulator
