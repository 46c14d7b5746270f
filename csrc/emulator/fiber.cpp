#include "fiber.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "sanitizers.h"

namespace el_attention::emulator {

namespace {

// Memory is taken page by page as a stack grows, and the guard page ends it with a fault.
constexpr size_t kGuardBytes = 4096;
constexpr size_t kStackBytes = 256 * 1024;

Fiber* running = nullptr;

}  // namespace

Fiber::Fiber(std::function<void()> body) : body_(std::move(body)) {
  mapping_ = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapping_, kGuardBytes, PROT_NONE);
  stack_ = static_cast<char*>(mapping_) + kGuardBytes;
  context_.start_at(&Fiber::run, stack_, kStackBytes);
  tsan_fiber_ = sanitizers::create_fiber();
}

Fiber::~Fiber() {
  sanitizers::destroy_fiber(tsan_fiber_);
  sanitizers::unpoison(stack_, kStackBytes);  // frames that were left in the middle
  munmap(mapping_, kGuardBytes + kStackBytes);
}

void Fiber::resume() {
  running = this;
  tsan_caller_ = sanitizers::current_fiber();
  sanitizers::start_switch(&caller_fake_stack_, stack_, kStackBytes);
  sanitizers::switch_fiber(tsan_fiber_);
  caller_.switch_to(context_);
  sanitizers::finish_switch(caller_fake_stack_, nullptr, nullptr);
}

void Fiber::pause() {
  Fiber& self = *running;
  sanitizers::start_switch(&self.fake_stack_, self.caller_stack_, self.caller_stack_bytes_);
  sanitizers::switch_fiber(self.tsan_caller_);
  self.context_.switch_to(self.caller_);
  sanitizers::finish_switch(self.fake_stack_, &self.caller_stack_, &self.caller_stack_bytes_);
}

void Fiber::run() {
  Fiber& self = *running;
  sanitizers::finish_switch(nullptr, &self.caller_stack_, &self.caller_stack_bytes_);
  for (;;) {
    self.body_();
    pause();
  }
}

}  // namespace el_attention::emulator
