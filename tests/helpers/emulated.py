"""Calls of the operators with the CUDA kernels under the emulator, through their own launcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emulator_build import Result, Sanitizer, build, run
from oracle import Call

REPORT = (torch.uint8, (256,))  # write_report in tests/csrc/emulator/attend.cpp


@dataclass(frozen=True)
class Emulation:
    """How kernels are run.

    Attributes:
        machine: the GPU to stand for; its architecture decides how the kernels are compiled.
        schedule: the order in which threads run.
        sanitizer: to compile with, or None.
    """

    machine: str = "a100"
    schedule: str = "ascending"
    sanitizer: Sanitizer | None = None

    def run(
        self,
        operator: str,
        arrays: dict[str, Tensor],
        outputs: dict[str, Any],
        **parameters: object,
    ) -> Result:
        """Builds the operator's driver, unless that is done, and runs it."""
        defines = ["EL_EMULATED_ARCH=75"] if self.machine == "t4" else []
        driver = "candidates" if operator in ("log_sum_exp", "top_candidates") else "attend"
        program = build(driver, self.sanitizer, defines)
        return run(
            program,
            arrays,
            outputs,
            timeout=300,
            operator=operator,
            machine=self.machine,
            schedule=self.schedule,
            **parameters,
        )

    def attend(self, call: Call, kernel: str = "best", splits: int = 0) -> Result:
        """Returns `context`, `lse`, `plan` (see `plan_of`), `report` and the counters."""
        arrays, parameters = _arguments(call)
        shape = call.query.shape
        outputs = {
            "context": (call.query.dtype, (*shape[:3], call.values[0].size(3))),
            "lse": (accumulator(call.query.dtype), shape[:3]),
            "plan": (torch.int32, (8,)),
            "report": REPORT,
        }
        return self.run("attend", arrays, outputs, kernel=kernel, splits=splits, **parameters)

    def weights(self, call: Call, lse: Tensor) -> Tensor:
        """Returns the weights [G, B, H, U]."""
        return self.weights_and_report(call, lse)["weights"]

    def weights_and_report(self, call: Call, lse: Tensor) -> Result:
        """Returns `weights` [G, B, H, U] and `report`."""
        arrays, parameters = _arguments(call)
        shape = (*call.query.shape[:3], parameters["rows"])
        outputs = {"weights": (lse.dtype, shape), "report": REPORT}
        return self.run("weights", arrays | {"lse": lse}, outputs, **parameters)

    def block_ngrams(
        self, lprobs: Tensor, tokens: Tensor, size: int, length: int, forced: Tensor | None
    ) -> Tensor:
        """Returns the log-probabilities after blocking."""
        return self.block_ngrams_and_report(lprobs, tokens, size, length, forced)["lprobs"]

    def block_ngrams_and_report(
        self, lprobs: Tensor, tokens: Tensor, size: int, length: int, forced: Tensor | None
    ) -> Result:
        """Returns `lprobs` after blocking and `report`."""
        arrays = {"lprobs": lprobs, "tokens": tokens}
        if forced is not None:
            arrays["forced"] = forced
        return self.run(
            "block_ngrams",
            arrays,
            {"lprobs": (lprobs.dtype, lprobs.shape), "report": REPORT},
            dtype=_name(lprobs.dtype),
            sequences=lprobs.size(0),
            vocabulary=lprobs.size(1),
            lprobs_row=lprobs.size(1),
            tokens_row=tokens.size(1),
            size=size,
            length=length,
        )

    def log_sum_exp(self, logits: Tensor) -> Tensor:
        """Returns lse [N]."""
        arrays, parameters = _logits(logits)
        outputs = {"lse": (accumulator(logits.dtype), logits.shape[:1])}
        return self.run("log_sum_exp", arrays, outputs, **parameters)["lse"]

    def top_candidates(
        self, logits: Tensor, lse: Tensor, scores: Tensor, beam: int, k: int
    ) -> Result:
        """Returns `values` and `index`, and the counters."""
        arrays, parameters = _logits(logits)
        shape = (logits.size(0) // beam, k)
        return self.run(
            "top_candidates",
            arrays | {"lse": lse, "scores": scores},
            {"values": (lse.dtype, shape), "index": (torch.int64, shape)},
            beam=beam,
            k=k,
            **parameters,
        )


@dataclass(frozen=True)
class Plan:
    """What the launcher chose; csrc/cuda/launch.h."""

    tensor_cores: bool
    queries: int
    shape: int
    row_groups: int
    stages: int
    splits: int
    shared_bytes: int
    vector: int


def plan_of(result: Result) -> Plan:
    first, *rest = result["plan"].tolist()
    return Plan(bool(first), *rest)


def report_of(result: Result) -> str:
    """The message of what the kernels reported; empty for nothing."""
    return bytes(result["report"].tolist()).split(b"\0")[0].decode()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores, sums and lse."""
    return torch.promote_types(dtype, torch.float32)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _storage(tensor: Tensor) -> Tensor:
    """All that lies in a tensor's storage, one element after another."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def _logits(logits: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and parameters of tests/csrc/emulator/candidates.cpp. Strides and storage are kept."""
    arrays = {"logits": _storage(logits)}
    parameters = {
        "dtype": _name(logits.dtype),
        "rows": logits.size(0),
        "vocabulary": logits.size(1),
        "logits_offset": logits.storage_offset(),
        "logits_row": logits.stride(0),
    }
    return arrays, parameters


def _arguments(call: Call) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and parameters of tests/csrc/emulator/attend.cpp. Strides and storage are kept."""
    groups, beam, heads, width = call.query.shape
    arrays = {"query": _storage(call.query)}
    parameters: dict[str, Any] = {
        "dtype": _name(call.query.dtype),
        "groups": groups,
        "beam": beam,
        "heads": heads,
        "kv_heads": call.keys[0].size(2),
        "width": width,
        "value_width": call.values[0].size(3),
        "rows": sum(keys.size(0) for keys in call.keys),
        "segments": len(call.keys),
        "query_offset": call.query.storage_offset(),
        "query_group": call.query.stride(0),
        "query_beam": call.query.stride(1),
        "query_head": call.query.stride(2),
    }
    for i, (keys, values, columns) in enumerate(
        zip(call.keys, call.values, call.columns, strict=True)
    ):
        arrays[f"columns{i}"] = columns
        parameters |= {f"keys{i}_rows": keys.size(0), f"keys{i}_columns": keys.size(1)}
        for name, segment in [("keys", keys)] + ([] if values is keys else [("values", values)]):
            arrays[f"{name}{i}"] = _storage(segment)
            parameters |= {
                f"{name}{i}_offset": segment.storage_offset(),
                f"{name}{i}_row": segment.stride(0),
                f"{name}{i}_column": segment.stride(1),
                f"{name}{i}_head": segment.stride(2),
            }
    if call.visible is not None:
        visible = call.visible.contiguous()
        arrays["visible"] = visible
        parameters["visible_group"] = visible.stride(0)
        parameters["visible_beam"] = visible.stride(1) if visible.size(1) == beam > 1 else 0
    if call.bias is not None:
        arrays["bias"] = _storage(call.bias)
        parameters["bias_offset"] = call.bias.storage_offset()
        parameters["bias_group"], parameters["bias_head"] = call.bias.stride()[:2]
    return arrays, parameters
