#include "short_waits.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace el_attention::cpu {
namespace {

constexpr long kMostThreads = 8;

// Whether the process may have so many more threads. GNU OpenMP ends one that may not.
bool may_have(long threads) {
  std::vector<std::thread> tried;
  std::mutex mutex;
  bool may = true;
  {
    const std::lock_guard lock(mutex);  // all of them live at a time
    try {
      while (static_cast<long>(tried.size()) < threads) {
        tried.emplace_back([&mutex] { const std::lock_guard waits(mutex); });
      }
    } catch (const std::exception&) {
      may = false;
    }
  }
  for (std::thread& thread : tried) thread.join();
  return may;
}

}  // namespace

// A thread with a team of OpenMP, which sleeps as long as its master does.
struct ShortWaits::Idle {
  explicit Idle(int team) : process(getpid()), master([this, team] { sleep(team); }) {}

  void sleep([[maybe_unused]] int team) {
    [[maybe_unused]] std::atomic<int> members = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
    ++members;
#endif
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return ends; });
  }

  void end() {
    {
      const std::lock_guard lock(mutex);
      ends = true;
    }
    changed.notify_one();
    master.join();
  }

  const pid_t process;
  std::mutex mutex;
  std::condition_variable changed;
  bool ends = false;
  std::thread master;  // last, for it uses the others
};

ShortWaits::ShortWaits(int threads) {
  const long team = sysconf(_SC_NPROCESSORS_ONLN) - threads + 2;
  if (threads < 2 || team < 2 || team > kMostThreads || !may_have(team)) return;
  idle_ = std::make_unique<Idle>(team);
}

ShortWaits::~ShortWaits() {
  if (idle_ == nullptr) return;
  if (idle_->process == getpid()) {
    idle_->end();
  } else {
    idle_.release();  // of a process that was forked, without the thread
  }
}

}  // namespace el_attention::cpu
