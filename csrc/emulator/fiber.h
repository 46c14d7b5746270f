// A function that can stop in the middle and go on later, on a stack of its own.
#pragma once

#include <cstddef>
#include <functional>

#include "context.h"

namespace el_attention::emulator {

class Fiber {
 public:
  // `body` runs at the first resume, and again at the first one after it has returned. No exception
  // may leave it.
  explicit Fiber(std::function<void()> body);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the fiber until it pauses or its body returns. Not from within a fiber.
  void resume();

  // Goes back to where the running fiber was resumed.
  static void pause();

 private:
  static void run();

  std::function<void()> body_;
  void* mapping_;  // guard page and stack
  void* stack_;
  Context context_;
  Context caller_;

  // For the sanitizers.
  void* tsan_fiber_;
  void* tsan_caller_ = nullptr;
  void* fake_stack_ = nullptr;
  void* caller_fake_stack_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_stack_bytes_ = 0;
};

}  // namespace el_attention::emulator
