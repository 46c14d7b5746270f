"""What a device of torch is to the cost model."""

from __future__ import annotations

from dataclasses import replace

import torch

from el_attention.cost import DEVICES, FITTED, MEASURED, Device, Rates
from el_attention.cost.device import A100, CPU


def rates_of(device: torch.device, dtype: torch.dtype) -> tuple[Device, Rates]:
    """Returns the known device that stands for `device`, and what software reaches of it.

    Rates are not measured here: a plan that hangs on other work of the machine would be another
    in the next run.  A GPU that is not known is taken for an A100: plans hang on the ratio of
    arithmetic to bandwidth, which differs little.

    Args:
        device: where attention runs.
        dtype: of weights and states; of the rates of others where the device has none for it.
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
