// What nvcc built, known to nvcc alone.
#pragma once

#include <string>
#include <vector>

namespace el_attention::cuda {

// The toolkit's version, "13.0".
std::string toolkit_version();

// The architectures with machine code, {75, 80, ...}.
std::vector<int> architectures();

}  // namespace el_attention::cuda
