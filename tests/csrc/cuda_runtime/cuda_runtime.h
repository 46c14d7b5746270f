// Stands for CUDA's, which is not everywhere: counts what csrc/cuda/runtime.cuh asks for, and fails
// where a test wants it to.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue = 1, cudaErrorNoKernelImageForDevice = 209 };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
struct dim3 {
  unsigned x, y = 1, z = 1;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct CUstream_st {};

namespace fake {

constexpr int kOptIn = 232448;  // bytes of shared memory, of sm_90

struct Setting {
  const void* kernel;
  int device;
  cudaFuncAttribute attribute;
  int value;
};

inline std::mutex mutex;
inline std::vector<Setting> settings;
inline thread_local int device = 0;
inline cudaError_t last = cudaSuccess;     // as cudaGetLastError returns it
inline cudaError_t failure = cudaSuccess;  // of the next launch
inline std::vector<int> launched;          // the integers that launches were given

inline cudaError_t returned(cudaError_t status) {
  if (status != cudaSuccess) last = status;
  return status;
}

}  // namespace fake

inline const char* cudaGetErrorString(cudaError_t) { return "a failure of the fake"; }

inline cudaError_t cudaGetLastError() { return std::exchange(fake::last, cudaSuccess); }

inline cudaError_t cudaGetDevice(int* device) {
  *device = fake::device;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) {
    return fake::returned(cudaErrorInvalidValue);
  }
  *value = fake::kOptIn;
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute,
                                        int value) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  fake::settings.push_back({kernel, fake::device, attribute, value});
  return cudaSuccess;
}

inline cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void** arguments, size_t,
                                    CUstream_st*) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  if (fake::failure != cudaSuccess) {
    return fake::returned(std::exchange(fake::failure, cudaSuccess));
  }
  fake::launched.push_back(*static_cast<int*>(arguments[0]));
  return cudaSuccess;
}
