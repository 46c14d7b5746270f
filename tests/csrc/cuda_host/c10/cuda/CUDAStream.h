// Stands for torch's, which needs CUDA: the current stream.
#pragma once

struct CUstream_st {};

namespace c10::cuda {

inline CUstream_st current_stream;
inline CUstream_st* getCurrentCUDAStream() { return &current_stream; }

}  // namespace c10::cuda
