// The classes of the Python module for steps of layers.
#pragma once

#include <pybind11/pybind11.h>

namespace el_attention {

void add_layer(pybind11::module_& module);

}  // namespace el_attention
