// A stack and registers to go on with: the machine-dependent part of a fiber.
//
// x86-64 has its own switch, 20 times faster than swapcontext, which asks the kernel about signals.
// EL_EMULATOR_UCONTEXT takes swapcontext there too.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(EL_EMULATOR_UCONTEXT)
#define EL_EMULATOR_UCONTEXT
#endif

#ifdef EL_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace el_attention::emulator {

class Context {
 public:
  // Where a switch to it calls `entry`, which never returns, on the given stack.
  void start_at(void (*entry)(), void* stack, size_t bytes);

  // Saves the running context here and goes on with `next`.
  void switch_to(Context& next);

 private:
#ifdef EL_EMULATOR_UCONTEXT
  ucontext_t state_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace el_attention::emulator
