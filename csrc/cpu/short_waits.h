// How long threads of OpenMP look for work before they give their core away.
#pragma once

#include <memory>

namespace el_attention::cpu {

// While one lives, threads of GNU OpenMP that wait look a thousand times instead of 300,000 times,
// which is microseconds instead of milliseconds. GNU OpenMP does so by itself where its threads
// outnumber the cores: this keeps as many idle ones as that takes. It changes nothing where that
// were more than a few, where the process may have no more threads, and with other runtimes.
class ShortWaits {
 public:
  // threads: those that compute, at::get_num_threads().
  explicit ShortWaits(int threads);
  ~ShortWaits();

 private:
  struct Idle;
  std::unique_ptr<Idle> idle_;
};

}  // namespace el_attention::cpu
