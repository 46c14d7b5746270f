// ThreadSanitizer and AddressSanitizer are told about fibers, barriers and red zones here; without
// them all of this is empty.
//
// To ThreadSanitizer every CUDA thread is a thread of its own, and only barriers order them. The
// emulator itself is compiled without its instrumentation (EL_EMULATOR_TSAN is defined then) and
// reports just the accesses that a kernel makes.
#pragma once

#include <cstddef>

#ifdef EL_EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
void __tsan_func_entry(void* caller);
void __tsan_func_exit();
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace el_attention::emulator::sanitizers {

// ---- ThreadSanitizer ----------------------------------------------------------------------------

#ifdef EL_EMULATOR_TSAN
inline void* current_fiber() { return __tsan_get_current_fiber(); }
inline void* create_fiber() { return __tsan_create_fiber(0); }
inline void destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
// A switch orders nothing: the fibers stand for threads that run at the same time.
inline void switch_fiber(void* fiber) {
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
}
// What a thread did before it releases an object happened before what follows an acquire of it.
inline void release(void* object) { __tsan_release(object); }
inline void acquire(void* object) { __tsan_acquire(object); }
inline void reads(const void* address, size_t bytes) {
  __tsan_read_range(const_cast<void*>(address), bytes);
}
inline void writes(void* address, size_t bytes) { __tsan_write_range(address, bytes); }
// Shows the line of the kernel in reports, which knows functions with accesses of their own only.
struct Frame {
  explicit Frame(void* caller) { __tsan_func_entry(caller); }
  ~Frame() { __tsan_func_exit(); }
};
// Until its end, the accesses of this thread or fiber are not looked at. Not around Fiber::pause.
struct Ignore {
  Ignore() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Ignore() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
#else
inline void* current_fiber() { return nullptr; }
inline void* create_fiber() { return nullptr; }
inline void destroy_fiber(void*) {}
inline void switch_fiber(void*) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void reads(const void*, size_t) {}
inline void writes(void*, size_t) {}
struct Frame {
  explicit Frame(void*) {}
};
struct Ignore {
  Ignore() {}
};
#endif

// ---- AddressSanitizer ---------------------------------------------------------------------------

#ifdef __SANITIZE_ADDRESS__
inline void poison(const void* address, size_t bytes) { ASAN_POISON_MEMORY_REGION(address, bytes); }
inline void unpoison(const void* address, size_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(address, bytes);
}
// Around a switch of stacks. `fake_stack` is where the left stack keeps what ASan knows of it.
inline void start_switch(void** fake_stack, const void* to_bottom, size_t to_bytes) {
  __sanitizer_start_switch_fiber(fake_stack, to_bottom, to_bytes);
}
inline void finish_switch(void* fake_stack, const void** from_bottom, size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_bytes);
}
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
inline void start_switch(void**, const void*, size_t) {}
inline void finish_switch(void*, const void**, size_t*) {}
#endif

}  // namespace el_attention::emulator::sanitizers
