// `attend` and `weights` on the CPU: checks, tasks and threads. The arithmetic is in kernels/.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "../call.h"
#include "../checks.h"
#include "dispatch.h"

namespace el_attention::cpu {
namespace {

void check_columns_in_range(at::TensorList columns, at::TensorList keys) {
  for (size_t i = 0; i < columns.size(); ++i) {
    const int64_t count = keys[i].size(1);
    const auto column = columns[i].accessor<int64_t, 1>();
    for (int64_t g = 0; g < column.size(0); ++g) {
      TORCH_CHECK_INDEX(column[g] >= 0 && column[g] < count, "columns[", i,
                        "]: expected columns in [0, ", count, "), got ", column[g],
                        " for sentence ", g);
    }
  }
}

AttendParams params_of(const Sizes& sizes, const Call& call) {
  return {sizes, call.query.scalar_type(), call.query.const_data_ptr(), call.rows};
}

// Memory of `count` parts of `size` elements each.
struct Parts {
  at::Tensor memory;
  int64_t bytes;

  Parts(int64_t count, int64_t size, const at::TensorOptions& options)
      : memory(at::empty({count * size}, options)), bytes(size * memory.element_size()) {}
  void* operator[](int64_t i) const { return static_cast<char*>(memory.data_ptr()) + i * bytes; }
};

// Memory of a thread.
struct Workspace {
  Parts packed, scratch;
  Parts partial;  // for sentences of one range: their result need not be kept

  Workspace(const Layout& layout, const at::TensorOptions& options)
      : packed(1, layout.packed_query, options),
        scratch(1, layout.scratch, options),
        partial(layout.ranges == 1, layout.partial, options) {}
};

// Runs run(group, range, workspace with packed queries) for every task. Tasks of a sentence are
// neighbours: each thread packs the queries of a sentence when it comes to its first task of that.
template <typename Run>
void run_tasks(const AttendParams& params, const AttendKernels& kernels, const Layout& layout,
               const at::TensorOptions& options, const Run& run) {
  at::parallel_for(0, params.sizes.groups * layout.ranges, 1, [&](int64_t begin, int64_t end) {
    const Workspace memory(layout, options);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / layout.ranges, range = task % layout.ranges;
      if (task == begin || range == 0) kernels.pack_query(params, layout, group, memory.packed[0]);
      run(group, range, memory);
    }
  });
}

std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& query, at::TensorList keys,
                                          at::TensorList values, at::TensorList columns,
                                          const std::optional<at::Tensor>& visible,
                                          const std::optional<at::Tensor>& bias) {
  const Sizes sizes = check_attend(query, keys, values, columns, visible, bias);
  check_columns_in_range(columns, keys);
  const auto options = query.options().dtype(accumulator(query));
  at::Tensor context =
      at::empty({sizes.groups, sizes.beam, sizes.heads, sizes.value_width}, query.options());
  at::Tensor lse = at::empty({sizes.groups, sizes.beam, sizes.heads}, options);
  if (lse.numel() == 0 || sizes.rows == 0) {
    return {context.zero_(), lse.fill_(-std::numeric_limits<double>::infinity())};
  }

  const Call call(query.contiguous(), keys, values, columns, visible, bias);
  const AttendParams params = params_of(sizes, call);
  const AttendKernels& kernels = cpu::kernels().attend(params.dtype);
  const Layout layout = kernels.layout(params, /*only_scores=*/false);
  std::unique_ptr<bool[]> finite(new bool[sizes.groups]);
  const auto combine = [&](int64_t group, void* partials) {
    finite[group] =
        kernels.combine(params, layout, group, partials, context.data_ptr(), lse.data_ptr());
  };
  const bool whole = layout.ranges == 1;
  const Parts partials(whole ? 0 : sizes.groups * layout.ranges, layout.partial, options);
  run_tasks(
      params, kernels, layout, options, [&](int64_t group, int64_t range, const Workspace& memory) {
        void* partial = whole ? memory.partial[0] : partials[group * layout.ranges + range];
        kernels.attend(params, layout, group, range, memory.packed[0], partial, memory.scratch[0]);
        if (whole) combine(group, partial);
      });
  if (!whole) {
    at::parallel_for(0, sizes.groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        combine(group, partials[group * layout.ranges]);
      }
    });
  }
  if (params.rows.visible_beam == 0) return {context, lse};  // a row is seen by all or by none
  // 0 x NaN is not 0. This is rare, so that beams share what they read unless it happens.
  for (int64_t group = 0; group < sizes.groups; ++group) {
    if (finite[group]) continue;
    const at::Tensor poisoned = at::isnan(context[group]).flatten(1).any(1);
    for (int64_t beam = 0; beam < sizes.beam; ++beam) {
      if (!poisoned[beam].item<bool>()) continue;
      const auto of_beam = [&](const at::Tensor& tensor) {
        return tensor.narrow(0, group, 1).narrow(1, beam, 1);
      };
      std::vector<at::Tensor> column;
      for (const at::Tensor& all : call.columns) column.push_back(all.narrow(0, group, 1));
      std::optional<at::Tensor> own_bias;
      if (bias.has_value()) own_bias = bias->narrow(0, group, 1);
      const auto alone =
          attend(of_beam(call.query), keys, values, column, of_beam(call.visible), own_bias);
      of_beam(context).copy_(std::get<0>(alone));
    }
  }
  return {context, lse};
}

at::Tensor weights(const at::Tensor& query, at::TensorList keys, at::TensorList columns,
                   const std::optional<at::Tensor>& visible, const std::optional<at::Tensor>& bias,
                   const at::Tensor& lse) {
  const Sizes sizes = check_weights(query, keys, columns, visible, bias, lse);
  check_columns_in_range(columns, keys);
  at::Tensor weights =
      at::zeros({sizes.groups, sizes.beam, sizes.heads, sizes.rows}, lse.options());
  if (weights.numel() == 0) return weights;

  const Call call(query.contiguous(), keys, /*values=*/std::nullopt, columns, visible, bias);
  const AttendParams params = params_of(sizes, call);
  const at::Tensor base = lse.contiguous();
  const AttendKernels& kernels = cpu::kernels().attend(params.dtype);
  const Layout layout = kernels.layout(params, /*only_scores=*/true);
  run_tasks(params, kernels, layout, lse.options(),
            [&](int64_t group, int64_t range, const Workspace& memory) {
              kernels.weights(params, layout, group, range, memory.packed[0], base.const_data_ptr(),
                              weights.data_ptr(), memory.scratch[0]);
            });
  return weights;
}

}  // namespace

TORCH_LIBRARY_IMPL(el_attention, CPU, m) {
  m.impl("attend", attend);
  m.impl("weights", weights);
}

}  // namespace el_attention::cpu
