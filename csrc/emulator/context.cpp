#include "context.h"

#include <cstdint>

#ifdef EL_EMULATOR_UCONTEXT

namespace el_attention::emulator {

void Context::start_at(void (*entry)(), void* stack, size_t bytes) {
  getcontext(&state_);
  state_.uc_stack.ss_sp = stack;
  state_.uc_stack.ss_size = bytes;
  state_.uc_link = nullptr;
  makecontext(&state_, entry, 0);
}

void Context::switch_to(Context& next) { swapcontext(&state_, &next.state_); }

}  // namespace el_attention::emulator

#else

// void el_attention_switch(void** save, void* stack_pointer): what a function call must preserve
// goes on the left stack, and comes back from the other one.
asm(R"(
.text
.p2align 4
.globl el_attention_switch
.type el_attention_switch, @function
el_attention_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size el_attention_switch, . - el_attention_switch
.section .note.GNU-stack, "", @progbits
.text
)");
extern "C" void el_attention_switch(void** save, void* stack_pointer);

namespace el_attention::emulator {

void Context::start_at(void (*entry)(), void* stack, size_t bytes) {
  auto* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack) + bytes);
  *--top = 0;  // `entry` finds the stack as after a call: 8 bytes below a multiple of 16
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;  // the registers that el_attention_switch restores
  stack_pointer_ = top;
}

void Context::switch_to(Context& next) {
  el_attention_switch(&stack_pointer_, next.stack_pointer_);
}

}  // namespace el_attention::emulator

#endif
