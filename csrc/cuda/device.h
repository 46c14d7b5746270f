// A CUDA device and its streams, without the CUDA headers.
#pragma once

#include <cstddef>

struct CUstream_st;

namespace el_attention::cuda {

using Stream = CUstream_st*;  // cudaStream_t

// What a launcher chooses kernels, tiles and splits by.
struct Device {
  int arch;                          // compute capability, 10 * major + minor
  int multiprocessors;               // SMs
  size_t shared_per_block;           // bytes of shared memory that one block may have
  size_t shared_per_multiprocessor;  // bytes that the blocks of an SM share; 1 KB of it per block
                                     // is the system's
};

// The current one.
Device current_device();

}  // namespace el_attention::cuda
