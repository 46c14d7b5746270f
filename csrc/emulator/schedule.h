// Decides what runs next where the program leaves it open.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "launch.h"

namespace el_attention::emulator {

class Scheduler {
 public:
  explicit Scheduler(const Schedule& schedule) : order_(schedule.order), random_(schedule.seed) {}

  // The numbers 0 to blocks - 1 in the order in which the blocks run.
  std::vector<uint32_t> blocks(uint32_t blocks);

  // One of the warps that can go on, given in ascending order.
  int warp(const std::vector<int>& ready);

  // The order in which the lanes of a warp run up to their next wait.
  const int (&lanes())[kLanes];

 private:
  Schedule::Order order_;
  std::mt19937_64 random_;
  int last_warp_ = -1;
  int lanes_[kLanes];
};

// The order that the next launch takes.
const Schedule& schedule();

}  // namespace el_attention::emulator
