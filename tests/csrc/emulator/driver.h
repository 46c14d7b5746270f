// What the drivers have in common: a driver is a program that runs kernels under the emulator on
// arrays from files. tests/helpers/emulator_build.py builds and runs it.
//
//   driver FOLDER name=value ...
//
// Array `a` is FOLDER/a.bin, its elements one after another. After the run each output is written
// there, and what the emulator counted goes to FOLDER/counters.json. The parameters `schedule` and
// `machine` are for the emulator. What a kernel does wrong ends the program with kKernelError and
// the message on the standard error.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../../csrc/cuda/params.h"
#include "../../../csrc/cuda/primitives.cuh"
#include "../../../csrc/cuda/runtime.cuh"

namespace el_attention::testing {

constexpr int kKernelError = 3;

class Driver {
 public:
  Driver(int count, char** arguments) : folder_(arguments[1]) {
    parameters_ = {{"schedule", "ascending"}, {"machine", EL_EMULATED_ARCH < 80 ? "t4" : "a100"}};
    for (int i = 2; i < count; ++i) {
      const std::string argument = arguments[i];
      const size_t equals = argument.find('=');
      parameters_[argument.substr(0, equals)] = argument.substr(equals + 1);
    }
    emulator::set_machine(text("machine"));
    emulator::set_schedule(emulator::parse_schedule(text("schedule")));
  }

  // Parameters of the command line. Each must be there.
  std::string text(const std::string& name) const {
    const auto found = parameters_.find(name);
    if (found == parameters_.end()) throw std::invalid_argument("parameter expected: " + name);
    return found->second;
  }
  long long integer(const std::string& name) const { return std::stoll(text(name)); }
  double number(const std::string& name) const { return std::stod(text(name)); }

  cuda::Dtype dtype() const {
    const std::string name = text("dtype");
    if (name == "float64") return cuda::Dtype::kFloat64;
    if (name == "float32") return cuda::Dtype::kFloat32;
    if (name == "float16") return cuda::Dtype::kFloat16;
    if (name == "bfloat16") return cuda::Dtype::kBFloat16;
    throw std::invalid_argument("dtype: " + name);
  }

  // Whether there is an array of this name.
  bool has(const std::string& name) const { return std::filesystem::exists(path(name)); }

  // An array of global memory with the contents of its file. Kernels may not write it.
  template <typename T>
  const T* input(const std::string& name) {
    return read<T>(name, emulator::Access::kReadOnly);
  }

  // An array of global memory that kernels may read and write, written back to its file.
  template <typename T>
  T* in_out(const std::string& name) {
    outputs_.push_back(name);
    return read<T>(name, emulator::Access::kReadWrite);
  }

  // An array of `count` elements, NaN, that kernels may read and write, written to its file.
  template <typename T>
  T* output(const std::string& name, size_t count) {
    outputs_.push_back(name);
    return scratch<T>(name, count);
  }

  // An output that is not written to a file.
  template <typename T>
  T* scratch(const std::string& name, size_t count) {
    return static_cast<T*>(allocate(name, count * sizeof(T), emulator::Access::kReadWrite).data());
  }

  void write_results() const {
    for (const std::string& name : outputs_) {
      std::ofstream file(path(name), std::ios::binary);
      const emulator::Allocation& array = *arrays_.at(name);
      file.write(static_cast<const char*>(array.data()), std::streamsize(array.bytes()));
    }
    std::ofstream(folder_ / "counters.json") << counters();
  }

 private:
  std::filesystem::path path(const std::string& name) const { return folder_ / (name + ".bin"); }

  emulator::Allocation& allocate(const std::string& name, size_t bytes, emulator::Access access) {
    auto& array = arrays_[name];
    if (array) throw std::invalid_argument("two arrays of the name " + name);
    array = std::make_unique<emulator::Allocation>(name, bytes, access);
    return *array;
  }

  template <typename T>
  T* read(const std::string& name, emulator::Access access) {
    std::ifstream file(path(name), std::ios::binary);
    if (!file) throw std::invalid_argument("array expected: " + path(name).string());
    emulator::Allocation& array = allocate(name, std::filesystem::file_size(path(name)), access);
    file.read(static_cast<char*>(array.data()), std::streamsize(array.bytes()));
    return static_cast<T*>(array.data());
  }

  static std::string fields(const emulator::GlobalTraffic& traffic) {
    std::ostringstream out;
    out << "\"read_bytes\": " << traffic.read_bytes
        << ", \"read_sectors\": " << traffic.read_sectors
        << ", \"unique_read_bytes\": " << traffic.unique_read_bytes
        << ", \"unique_read_sectors\": " << traffic.unique_read_sectors
        << ", \"written_bytes\": " << traffic.written_bytes
        << ", \"written_sectors\": " << traffic.written_sectors;
    return out.str();
  }

  std::string counters() const {
    const emulator::Counters counters = emulator::counters();
    std::ostringstream out;
    out << "{" << fields(counters.global)
        << ", \"shared_wavefronts\": " << counters.shared_wavefronts
        << ", \"shared_conflicts\": " << counters.shared_conflicts
        << ", \"mma_instructions\": " << counters.mma_instructions
        << ", \"mma_flops\": " << counters.mma_flops
        << ", \"block_barriers\": " << counters.block_barriers << ",\n \"arrays\": {";
    const char* separator = "";
    for (const auto& [name, array] : arrays_) {
      out << separator << "\n  \"" << name << "\": {" << fields(array->traffic()) << "}";
      separator = ",";
    }
    out << "},\n \"shared\": [";
    separator = "";
    for (const emulator::SharedSite& site : emulator::shared_sites()) {
      out << separator << "\n  {\"file\": \""
          << std::filesystem::path(site.site.file).filename().string()
          << "\", \"line\": " << site.site.line << ", \"access\": \"" << site.access
          << "\", \"accesses\": " << site.accesses << ", \"wavefronts\": " << site.wavefronts
          << ", \"conflicts\": " << site.conflicts << "}";
      separator = ",";
    }
    out << "]}\n";
    return out.str();
  }

  std::filesystem::path folder_;
  std::map<std::string, std::string> parameters_;
  std::map<std::string, std::unique_ptr<emulator::Allocation>> arrays_;
  std::vector<std::string> outputs_;
};

// The main function of a driver.
inline int run_driver(int count, char** arguments, const std::function<void(Driver&)>& run) {
  try {
    Driver driver(count, arguments);
    run(driver);
    driver.write_results();
    return 0;
  } catch (const emulator::Error& error) {
    std::cerr << error.what() << '\n';
    return kKernelError;
  } catch (const std::exception& error) {
    std::cerr << "driver: " << error.what() << '\n';
    return 1;
  }
}

}  // namespace el_attention::testing
