#include "build.h"

namespace el_attention::cuda {

std::string toolkit_version() {
  return std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__);
}

std::vector<int> architectures() {
  std::vector<int> result;
  for (int architecture : {__CUDA_ARCH_LIST__}) result.push_back(architecture / 10);
  return result;
}

}  // namespace el_attention::cuda
