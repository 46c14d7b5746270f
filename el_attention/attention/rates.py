"""What a device of torch is to the cost model."""

from __future__ import annotations

from dataclasses import replace

import torch

from el_attention.cost import CPU, DEVICES, Device, Rates
from el_attention.cost.device import A100

# Fitted by `python -m research.cost_model --fit` on the paper's beam-search table alone (V100,
# PyTorch of 2020): least squares on the logarithms of its ten ratios and twenty speeds; ratios
# alone leave a common factor of all rates open. A share of 1 is a bound, not a measurement.
FITTED = Rates(half=0.55, single=1.0, stream=0.558, operation_seconds=21.1e-6)

# For devices whose rates are what software was measured to reach. On a CPU calls are no time of
# their own: the device does not work beside the host. Small products: 12 ms for the expansions of
# a step of 1.8 GFLOP where a large product reached 200 GFLOP/s (BART base, 128 rows).
MEASURED = Rates(half=1.0, single=1.0, stream=1.0, operation_seconds=0.0, batched=0.75)


def rates_of(device: torch.device, dtype: torch.dtype) -> tuple[Device, Rates]:
    """Returns the known device that stands for `device`, and what software reaches of it.

    Rates are constants, so that the plan does not change with the load of the machine.  A GPU that
    is not known is taken for an A100: the choice depends on the ratio of arithmetic to bandwidth,
    which differs little.

    Args:
        device: where attention runs.
        dtype: the dtype of weights and states; where the device has no rate for it, its lowest is
            taken.
    """
    known, rates = (CPU, MEASURED) if device.type == "cpu" else (_gpu(device), FITTED)
    name = str(dtype).removeprefix("torch.")
    if name not in known.flops:
        known = replace(known, flops={**known.flops, name: min(known.flops.values())})
    return known, rates


def _gpu(device: torch.device) -> Device:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    # Named as in nvidia-smi: "NVIDIA A100-SXM4-80GB" is "A100 SXM 80 GB" here.
    return next(
        (d for d in DEVICES.values() if d.name.removeprefix("RTX ").split()[0] in name), A100
    )
