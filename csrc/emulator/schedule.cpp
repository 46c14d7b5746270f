#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace el_attention::emulator {

namespace {

Schedule current;

}  // namespace

Schedule parse_schedule(const std::string& text) {
  using Order = Schedule::Order;
  if (text == "ascending") return {Order::kAscending, 0};
  if (text == "descending") return {Order::kDescending, 0};
  if (text == "round-robin") return {Order::kRoundRobin, 0};
  const std::string random = "random:";
  const std::string seed =
      text.substr(0, random.size()) == random ? text.substr(random.size()) : "";
  if (!seed.empty() && seed.size() < 19 &&
      std::all_of(seed.begin(), seed.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return {Order::kRandom, std::stoull(seed)};
  }
  throw Error("schedule: expected ascending, descending, round-robin or random:<seed>, got " +
              text);
}

void set_schedule(const Schedule& schedule) { current = schedule; }
const Schedule& schedule() { return current; }

std::vector<uint32_t> Scheduler::blocks(uint32_t blocks) {
  std::vector<uint32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  if (order_ == Schedule::Order::kDescending) std::reverse(order.begin(), order.end());
  if (order_ == Schedule::Order::kRandom) std::shuffle(order.begin(), order.end(), random_);
  return order;
}

int Scheduler::warp(const std::vector<int>& ready) {
  switch (order_) {
    case Schedule::Order::kAscending:
      return ready.front();
    case Schedule::Order::kDescending:
      return ready.back();
    case Schedule::Order::kRoundRobin: {
      const auto next = std::upper_bound(ready.begin(), ready.end(), last_warp_);
      return last_warp_ = next == ready.end() ? ready.front() : *next;
    }
    case Schedule::Order::kRandom:
      return ready[random_() % ready.size()];
  }
  return ready.front();
}

const int (&Scheduler::lanes()) [kLanes] {
  std::iota(std::begin(lanes_), std::end(lanes_), 0);
  if (order_ == Schedule::Order::kDescending) std::reverse(std::begin(lanes_), std::end(lanes_));
  if (order_ == Schedule::Order::kRandom) {
    std::shuffle(std::begin(lanes_), std::end(lanes_), random_);
  }
  return lanes_;
}

}  // namespace el_attention::emulator
