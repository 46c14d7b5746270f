// A block of threads: runs its warps, and wakes threads that wait for each other.
//
// A thread runs until it has to wait: for its warp (a shuffle, mma, ldmatrix or sync_warp) or at a
// barrier. When all lanes of a warp wait in the same operation, the emulator does it for all of
// them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "copies.h"
#include "fiber.h"
#include "schedule.h"

namespace el_attention::emulator {

// Something that the lanes of a warp do together; `operands` is what each lane brought.
struct Operation {
  const char* name;
  void (*perform)(void* const (&operands)[kLanes]);
};

constexpr int kBarriers = 16;       // of a block; 0 is that of all threads
constexpr int kMostThreads = 1024;  // of a block

struct Thread {
  enum class State { kReady, kInOperation, kAtBarrier, kEnded, kFailed };

  explicit Thread(std::function<void()> body) : fiber(std::move(body)) {}

  Position position{};
  State state = State::kReady;
  Site site{};                           // where it waits
  const Operation* operation = nullptr;  // in operation
  void* operands = nullptr;
  int barrier = 0;  // at barrier
  int barrier_threads = 0;
  bool predicate = false;  // brought to the barrier; then whether any thread's held
  std::string error;       // failed
  Copies copies;
  Fiber fiber;
};

// A block of a launch. Its methods are called by the launcher, on its stack.
class Block {
 public:
  // Runs all threads of `block`. Throws Error.
  Block(const LaunchShape& shape, Index block, int number, Scheduler& scheduler,
        const std::function<void()>& kernel);
  void run();

  int number() const { return number_; }
  std::string name() const;  // for messages: kernel and block

 private:
  bool all_ended() const;
  std::vector<int> ready_warps() const;
  void run_warp(int warp);
  void settle(int warp);
  void arrive(int barrier);
  [[noreturn]] void fail_stuck(const std::string& what, int first, int threads) const;

  const LaunchShape& shape_;
  const Index index_;
  const int number_;
  Scheduler& scheduler_;
  const int warps_;
};

// Ends the fibers of all threads, wherever they are.
void abandon_threads();

// ---- For the primitives, in the running thread --------------------------------------------------

Thread& current_thread();
const Block& current_block();

// Ends the launch with a message that says where.
[[noreturn]] void fail(const std::string& message, Site site = {nullptr, 0});

// Waits until all lanes of the warp are here and the operation is done.
void wait_for_warp(const Operation& operation, void* operands, Site site);

}  // namespace el_attention::emulator
