#include "block.h"

#include <algorithm>
#include <utility>

#include "machine.h"
#include "sanitizers.h"

namespace el_attention::emulator {

namespace {

// What ThreadSanitizer knows a barrier by. Phases alternate between two objects: with one, a thread
// that is already at the next barrier would seem to be ordered before those still leaving this one.
class SyncObject {
 public:
  void* current() { return &phases_[phase_ % 2]; }
  void next() { ++phase_; }

 private:
  char phases_[2] = {};
  unsigned phase_ = 0;
};

SyncObject barriers[kBarriers];
SyncObject warp_barriers[kMostThreads / kLanes];
char block_start, block_end;

// Threads live on from block to block and from launch to launch.
std::vector<std::unique_ptr<Thread>> threads;
Thread* current = nullptr;
const Block* running_block = nullptr;
const std::function<void()>* running_kernel = nullptr;

void run_thread() {
  Thread& self = *current;
  sanitizers::acquire(&block_start);
  (*running_kernel)();
  sanitizers::release(&block_end);
  self.copies.forget();
  self.state = Thread::State::kEnded;
}

std::string to_string(Index index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

std::string to_string(Site site) {
  if (site.file == nullptr) return "";
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

std::string barrier_name(const Thread& thread) {
  if (thread.barrier == 0) return "sync_threads";
  return "sync_group(" + std::to_string(thread.barrier) + ", " +
         std::to_string(thread.barrier_threads) + ")";
}

std::string describe_state(const Thread& thread) {
  switch (thread.state) {
    case Thread::State::kInOperation:
      return std::string("in ") + thread.operation->name + " at " + to_string(thread.site);
    case Thread::State::kAtBarrier:
      return "in " + barrier_name(thread) + " at " + to_string(thread.site);
    case Thread::State::kEnded:
      return "ended";
    case Thread::State::kReady:
    case Thread::State::kFailed:
      break;
  }
  return "running";
}

// Whether two lanes wait for the same thing.
bool together(const Thread& a, const Thread& b) {
  if (a.state != b.state) return false;
  switch (a.state) {
    case Thread::State::kInOperation:
      return a.operation == b.operation && a.site == b.site;
    case Thread::State::kAtBarrier:
      return a.barrier == b.barrier && a.barrier_threads == b.barrier_threads && a.site == b.site;
    default:
      return true;
  }
}

void sync_warp_operation(void* const (&operands)[kLanes]) {
  static_cast<SyncObject*>(operands[0])->next();
}
constexpr Operation kSyncWarp{"sync_warp", sync_warp_operation};

bool wait_at_barrier(int barrier, int threads, bool predicate, Site site) {
  Thread& self = *current;
  self.state = Thread::State::kAtBarrier;
  self.site = site;
  self.barrier = barrier;
  self.barrier_threads = threads;
  self.predicate = predicate;
  void* const object = barriers[barrier].current();
  sanitizers::release(object);
  Fiber::pause();
  sanitizers::acquire(object);
  return self.predicate;
}

}  // namespace

// ---- The block, on the launcher's stack ---------------------------------------------------------

Block::Block(const LaunchShape& shape, Index index, int number, Scheduler& scheduler,
             const std::function<void()>& kernel)
    : shape_(shape),
      index_(index),
      number_(number),
      scheduler_(scheduler),
      warps_(shape.threads / kLanes) {
  while (threads.size() < size_t(shape.threads)) {
    threads.push_back(std::make_unique<Thread>(run_thread));
  }
  for (int i = 0; i < shape.threads; ++i) {
    threads[i]->position = {i, shape.threads, index, shape.grid};
    threads[i]->state = Thread::State::kReady;
  }
  running_block = this;
  running_kernel = &kernel;
}

void Block::run() {
  machine_state().shared.start_block();
  sanitizers::release(&block_start);
  while (!all_ended()) {
    const std::vector<int> ready = ready_warps();
    if (ready.empty()) fail_stuck("deadlock", 0, shape_.threads);
    run_warp(scheduler_.warp(ready));
  }
  sanitizers::acquire(&block_end);
}

std::string Block::name() const {
  return std::string("kernel ") + shape_.kernel + ", block " + to_string(index_);
}

// Between two settlements the lanes of a warp are all in the same state.
bool Block::all_ended() const {
  for (int warp = 0; warp < warps_; ++warp) {
    if (threads[warp * kLanes]->state != Thread::State::kEnded) return false;
  }
  return true;
}

std::vector<int> Block::ready_warps() const {
  std::vector<int> ready;
  for (int warp = 0; warp < warps_; ++warp) {
    if (threads[warp * kLanes]->state == Thread::State::kReady) ready.push_back(warp);
  }
  return ready;
}

void Block::run_warp(int warp) {
  for (const int lane : scheduler_.lanes()) {
    current = threads[warp * kLanes + lane].get();
    current->fiber.resume();
    if (current->state == Thread::State::kFailed) throw Error(current->error);
  }
  machine_state().accesses.flush(machine_state().counters);
  settle(warp);
}

void Block::settle(int warp) {
  Thread& first = *threads[warp * kLanes];
  for (int lane = 1; lane < kLanes; ++lane) {
    if (together(first, *threads[warp * kLanes + lane])) continue;
    fail_stuck("the lanes of a warp diverge", warp * kLanes, kLanes);
  }
  if (first.state == Thread::State::kAtBarrier) arrive(first.barrier);
  if (first.state != Thread::State::kInOperation) return;
  void* operands[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    operands[lane] = threads[warp * kLanes + lane]->operands;
  first.operation->perform(operands);
  for (int lane = 0; lane < kLanes; ++lane) {
    threads[warp * kLanes + lane]->state = Thread::State::kReady;
  }
}

void Block::arrive(int barrier) {
  std::vector<Thread*> here;
  for (int i = 0; i < shape_.threads; ++i) {
    if (threads[i]->state == Thread::State::kAtBarrier && threads[i]->barrier == barrier) {
      here.push_back(threads[i].get());
    }
  }
  bool any = false;
  for (const Thread* thread : here) {
    any = any || thread->predicate;
    // Parts of the warps may meet at a group's barrier from different places, a block may not.
    if (barrier == 0 && thread->site != here.front()->site) {
      fail_stuck("warps meet in sync_threads from different places", 0, shape_.threads);
    }
    if (thread->barrier_threads != here.front()->barrier_threads) {
      fail_stuck("warps wait at a barrier for different numbers of threads", 0, shape_.threads);
    }
  }
  if (here.size() < size_t(here.front()->barrier_threads)) return;
  for (Thread* thread : here) {
    thread->predicate = any;
    thread->state = Thread::State::kReady;
  }
  barriers[barrier].next();
  machine_state().counters.block_barriers += 1;
}

void Block::fail_stuck(const std::string& what, int first, int count) const {
  // Which threads are where: the places in order of the first thread there, each with its ranges.
  std::vector<std::pair<std::string, std::string>> places;
  const bool one_warp = count == kLanes && shape_.threads > kLanes;
  const int base = one_warp ? first : 0;
  for (int i = first; i < first + count;) {
    const std::string state = describe_state(*threads[i]);
    int end = i + 1;
    while (end < first + count && describe_state(*threads[end]) == state) ++end;
    auto place = std::find_if(places.begin(), places.end(),
                              [&](const auto& known) { return known.first == state; });
    if (place == places.end()) place = places.insert(places.end(), {state, ""});
    if (!place->second.empty()) place->second += ", ";
    place->second += std::to_string(i - base);
    if (end - i > 1) place->second += "-" + std::to_string(end - 1 - base);
    i = end;
  }
  std::string message = name();
  if (count == kLanes) message += ", warp " + std::to_string(first / kLanes);
  message += ": " + what;
  const char* separator = ": ";
  for (const auto& [state, ranges] : places) {
    message +=
        separator + std::string(count == kLanes ? "lanes " : "threads ") + ranges + " " + state;
    separator = "; ";
  }
  throw Error(message);
}

void abandon_threads() { threads.clear(); }

// ---- The running thread -------------------------------------------------------------------------

Thread& current_thread() { return *current; }
const Block& current_block() { return *running_block; }
const Position& position() { return current->position; }

void fail(const std::string& message, Site site) {
  Thread& self = *current;
  const int thread = self.position.thread;
  {
    const sanitizers::Ignore ignore;
    self.error = running_block->name() + ", warp " + std::to_string(thread / kLanes) + ", lane " +
                 std::to_string(thread % kLanes);
    if (site.file != nullptr) self.error += ", " + to_string(site);
    self.error += ": " + message;
  }
  self.state = Thread::State::kFailed;
  for (;;) Fiber::pause();
}

void trap(const char* why, Site site) { fail(why, site); }

void wait_for_warp(const Operation& operation, void* operands, Site site) {
  Thread& self = *current;
  self.state = Thread::State::kInOperation;
  self.site = site;
  self.operation = &operation;
  self.operands = operands;
  Fiber::pause();
}

void sync_warp(Site site) {
  SyncObject& barrier = warp_barriers[current->position.thread / kLanes];
  void* const object = barrier.current();
  sanitizers::release(object);
  wait_for_warp(kSyncWarp, &barrier, site);
  sanitizers::acquire(object);
}

void sync_block(Site site) { wait_at_barrier(0, current->position.threads, false, site); }

bool sync_block_or(bool predicate, Site site) {
  return wait_at_barrier(0, current->position.threads, predicate, site);
}

void sync_group(int barrier, int threads, Site site) {
  if (barrier < 1 || barrier >= kBarriers) {
    fail("sync_group: expected a barrier from 1 to " + std::to_string(kBarriers - 1) + ", got " +
             std::to_string(barrier),
         site);
  }
  if (threads < kLanes || threads > current->position.threads || threads % kLanes != 0) {
    fail("sync_group: expected a multiple of 32 threads up to " +
             std::to_string(current->position.threads) + ", got " + std::to_string(threads),
         site);
  }
  wait_at_barrier(barrier, threads, false, site);
}

}  // namespace el_attention::emulator
