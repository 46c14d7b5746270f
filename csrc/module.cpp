// The Python module el_attention._C: what was built, threads, and steps of layers. The operators
// are registered with torch when it is loaded (csrc/ops.cpp) and are not part of it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <optional>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/short_waits.h"
#include "layer_module.h"
#ifdef EL_ATTENTION_CUDA
#include "cuda/build.h"
#endif

namespace {

pybind11::dict build_information() {
#ifdef _OPENMP
  const bool threads = true;
#else
  const bool threads = false;
#endif
  pybind11::object cuda = pybind11::none();
  std::vector<int> gpu_architectures;
#ifdef EL_ATTENTION_CUDA
  cuda = pybind11::str(el_attention::cuda::toolkit_version());
  gpu_architectures = el_attention::cuda::architectures();
#endif
  pybind11::dict information;
  information["torch"] = TORCH_VERSION;
  information["instruction_set"] = el_attention::cpu::instruction_set();
  information["threads"] = threads;
  information["cuda"] = cuda;
  information["gpu_architectures"] = gpu_architectures;
  return information;
}

// Why the CUDA kernels cannot run on a device, asked of the driver; nothing where they can.
std::optional<std::string> unsupported_gpu([[maybe_unused]] int device) {
#ifdef EL_ATTENTION_CUDA
  return el_attention::cuda::unsupported_device(device);
#else
  return "built without CUDA";
#endif
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("build_information", &build_information);
  m.def("unsupported_gpu", &unsupported_gpu);
  pybind11::class_<el_attention::cpu::ShortWaits>(m, "ShortWaits").def(pybind11::init<int>());
  el_attention::add_layer(m);
}
