// The body for CUDA of csrc/cuda/runtime.cuh, over a runtime that counts: tests/csrc/cuda_runtime.
//
// Launches two kernels on two devices from eight threads, and fails two launches. Prints what was
// set and what was thrown, a line each.
#define __CUDACC__
#include "../../../csrc/cuda/runtime.cuh"

#include <iostream>
#include <thread>

using namespace el_attention::cuda;

void first(int) {}
void second(int, double) {}

namespace {

void launch_all(int device) {
  fake::device = device;
  for (size_t bytes : {size_t{0}, size_t{100 * 1024}, size_t{64 * 1024}}) {
    launch({"first", {1, 1, 1}, 32, bytes, nullptr}, first, 7);
    launch({"second", {1, 1, 1}, 32, bytes, nullptr}, second, 8, 2.5);
  }
}

const char* name_of(const void* kernel) {
  return kernel == reinterpret_cast<const void*>(first) ? "first" : "second";
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back(launch_all, i % 2);
  for (std::thread& thread : threads) thread.join();
  for (const fake::Setting& setting : fake::settings) {
    const bool shared = setting.attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
    std::cout << name_of(setting.kernel) << " " << setting.device << " "
              << (shared ? "shared" : "carveout") << " " << setting.value << "\n";
  }
  int sum = 0;
  for (int number : fake::launched) sum += number;
  std::cout << "launched " << fake::launched.size() << " sum " << sum << "\n";
  for (cudaError_t failure : {cudaErrorInvalidValue, cudaErrorNoKernelImageForDevice}) {
    fake::failure = failure;
    try {
      launch({"first", {1, 1, 1}, 32, 0, nullptr}, first, 9);
    } catch (const std::runtime_error& error) {
      std::cout << "thrown " << error.what() << ", left " << cudaGetLastError() << "\n";
    }
  }
}
