#include "copies.h"

#include <cstring>

#include "sanitizers.h"

namespace el_attention::emulator {

void Copies::add(void* to, const void* from) {
  memset(to, 0xff, kCopyBytes);
  under_way_.push_back({to, from});
  ++uncommitted_;
}

void Copies::commit() {
  groups_.push_back(uncommitted_);
  uncommitted_ = 0;
}

void Copies::wait(int newest) {
  while (groups_.size() > size_t(newest)) {
    for (size_t i = 0; i < groups_.front(); ++i) {
      const Copy copy = under_way_.front();
      under_way_.pop_front();
      sanitizers::writes(copy.to, kCopyBytes);
      if (copy.from == nullptr) {
        memset(copy.to, 0, kCopyBytes);
      } else {
        memcpy(copy.to, copy.from, kCopyBytes);
      }
    }
    groups_.pop_front();
  }
}

void Copies::forget() {
  under_way_.clear();
  groups_.clear();
  uncommitted_ = 0;
}

}  // namespace el_attention::emulator
