// Checks and records the accesses of the running thread.
#pragma once

#include "access_log.h"

namespace el_attention::emulator {

// An access of `bytes` bytes at `address`: fails where it is not aligned to its size or not within
// one allocation, or one array of shared memory, that may be accessed so; else counts it and shows
// it to ThreadSanitizer.
void touch_global(const Kind& kind, const void* address, int bytes, Site site);
void touch_shared(const Kind& kind, const void* address, int bytes, Site site);

}  // namespace el_attention::emulator
