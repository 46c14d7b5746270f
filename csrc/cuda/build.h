// What nvcc built, known to nvcc alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace el_attention::cuda {

// The toolkit's version, "13.0".
std::string toolkit_version();

// The architectures with machine code or PTX, {75, 80, ...}.
std::vector<int> architectures();

// Why the kernels cannot run on a device: there is neither machine code nor PTX for it, or the
// driver is older than the toolkit. Nothing where they can.
std::optional<std::string> unsupported_device(int device);

}  // namespace el_attention::cuda
