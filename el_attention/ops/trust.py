"""Which compiled operators this process trusts on a GPU.

There are more GPUs, drivers and compilers than anybody can test beforehand.  So operators are tried
where a device is first used in a dtype (`el_attention.ops.check`).  One that differs from the
reference, or cannot be launched, is off for the process: calls take the reference.  Results of
right operators stay as they are.  What was found is a fact about the machine, so that `GPUS` keeps
it for the process.

Environment:
    EL_ATTENTION_GPU: `unchecked` for using the compiled operators without trying them, `off` for
        not using them on GPUs.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Sequence

import torch
from torch.utils._python_dispatch import _disable_current_modes

from el_attention.ops import check

VARIABLE = "EL_ATTENTION_GPU"
Try = Callable[[str, torch.device, torch.dtype], check.Outcome]


class Trust:
    """What is known about devices; may be asked by several threads.

    Attributes:
        unsupported_gpu: says why no kernel can run on the device of an index, or None.
        attempt: tries an operator on a device in a dtype.
    """

    def __init__(
        self, unsupported_gpu: Callable[[int], str | None], attempt: Try = check.run
    ) -> None:
        self.unsupported_gpu = unsupported_gpu
        self.attempt = attempt
        self._lock = threading.RLock()
        self._devices: dict[torch.device, str | None] = {}
        self._faults: dict[tuple[torch.device, torch.dtype], dict[str, str]] = {}

    def unsupported(
        self, operators: Sequence[str], device: torch.device, dtype: torch.dtype
    ) -> str | None:
        """Tells whether operators are off; the first time for a device and dtype, tries them all.

        While a CUDA graph is captured nothing can be tried: what is not known to be wrong is
        trusted.

        Args:
            operators: names, of `check.OPERATORS`.
            device: a GPU, with its index.
            dtype: of the query or the logits.

        Returns:
            Why one of them is off, or None.

        Raises:
            RuntimeError: if a kernel has broken the device for this process: nothing can run there.
            ValueError: if EL_ATTENTION_GPU has a value that it does not take.
        """
        setting = os.environ.get(VARIABLE, "")
        if setting not in ("", "unchecked", "off"):
            raise ValueError(f"{VARIABLE}: expected unchecked or off, got {setting!r}")
        if setting:
            return f"off by {VARIABLE}" if setting == "off" else None
        with self._lock:
            if (device, dtype) not in self._faults:
                if _is_capturing(device):
                    return None
                # Modes such as those of compilers, and of tensors without values.
                with _disable_current_modes():
                    self._faults[device, dtype] = self._try_all(device, dtype)
            faults = self._faults[device, dtype]
        return next((faults[operator] for operator in operators if operator in faults), None)

    def _try_all(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        if device not in self._devices:
            self._devices[device] = reason = self.unsupported_gpu(device.index or 0)
            if reason:
                _warn(f"{device}: the compiled operators cannot run there: {reason}")
        if reason := self._devices[device]:
            return dict.fromkeys(check.OPERATORS, f"not for {device}: {reason}")
        faults = {}
        for operator in check.OPERATORS:
            fault = self.attempt(operator, device, dtype).fault
            if fault is None:
                continue
            faults[operator] = f"wrong on {device} in {dtype} ({operator}: {fault})"
            _warn(
                f"{device}: the compiled operator {operator} is off, because it failed a small "
                f"call in {dtype}: {fault}. Please report this line, the GPU, and what "
                "`el-attention doctor --gpu` prints, as a bug of el-attention"
            )
            _refuse_broken(device, operator, fault)
        return faults


def unsupported_gpu(index: int) -> str | None:
    """Returns why no kernel can run on a GPU, such as one without machine code, or None."""
    module = importlib.import_module("el_attention._C")
    reason: str | None = module.unsupported_gpu(index)
    if reason is None:
        return None
    built = " ".join(f"sm_{arch}" for arch in module.build_information()["gpu_architectures"])
    return f"{reason} (built for {built})"


def _is_capturing(device: torch.device) -> bool:
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _refuse_broken(device: torch.device, operator: str, fault: str) -> None:
    """Ends the run where a kernel has trapped: a CUDA context does not recover from that."""
    try:
        torch.zeros(1, device=device).cpu()
    except RuntimeError as error:
        raise RuntimeError(
            f"{device}: trying the compiled operator {operator} has broken the device for this "
            f"process ({fault}). Start again with {VARIABLE}=off, for the pure-PyTorch operators"
        ) from error


def _warn(text: str) -> None:
    logging.getLogger(__name__).warning(f"{text}; PyTorch's operators take its place")


GPUS = Trust(unsupported_gpu)
