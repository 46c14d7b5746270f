// Asynchronous copies of one thread. They land as late as the program allows, at the wait for them:
// a kernel that reads too early reads NaN.
#pragma once

#include <cstddef>
#include <deque>

namespace el_attention::emulator {

constexpr int kCopyBytes = 16;

class Copies {
 public:
  // Fills the destination with NaN until the copy lands. Where `from` is null, zeros are copied.
  void add(void* to, const void* from);
  void commit();
  void wait(int newest);
  void forget();

 private:
  struct Copy {
    void* to;
    const void* from;
  };

  std::deque<Copy> under_way_;  // oldest first
  std::deque<size_t> groups_;   // copies of each committed group
  size_t uncommitted_ = 0;      // copies after the last commit
};

}  // namespace el_attention::emulator
