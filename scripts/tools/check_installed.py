#!/usr/bin/env python3
"""Checks the el_attention that this Python imports: its compiled operators run, on a CPU at least.

The CUDA operators, if they were built, are listed and traced without a GPU.  Part of
scripts/tools/check_wheel.sh, which runs it away from the source tree.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import el_attention
from el_attention.cli import doctor
from el_attention.ops import extension

# With kernels for CUDA; linear layers are torch's there.
CUDA_OPERATORS = ("attend", "weights", "block_ngrams_", "log_sum_exp", "top_candidates")
ops = torch.ops.el_attention


def run_on_cpu() -> None:
    """Compares every operator with its definition."""
    torch.manual_seed(0)
    query = torch.randn(2, 3, 4, 10)  # [sentences, beams, heads, width]
    rows = torch.randn(7, 2, 1, 10)  # [rows, columns, kv_heads, width]
    columns = torch.tensor([1, 0])
    scores = torch.einsum("gbhw,ugw->gbhu", query, rows[:, columns, 0])
    context, lse = ops.attend(query, [rows], [rows], [columns], None, None)
    expected = torch.einsum("gbhu,ugw->gbhw", scores.softmax(-1), rows[:, columns, 0])
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    weights = ops.weights(query, [rows], [columns], None, None, lse)
    torch.testing.assert_close(weights, scores.softmax(-1))
    lprobs = torch.zeros(1, 5)
    ops.block_ngrams_(lprobs, torch.tensor([[0, 1, 2, 1]]), 2, 4, None)
    assert lprobs.isinf().tolist() == [[False, False, True, False, False]], lprobs
    logits = torch.randn(4, 50)
    lse = ops.log_sum_exp(logits)
    torch.testing.assert_close(logits - lse[:, None], logits.log_softmax(-1))
    values, index = ops.top_candidates(logits, lse, torch.zeros(4), 2, 3)
    best = logits.log_softmax(-1).view(2, 100).topk(3)
    torch.testing.assert_close(values, best.values)
    assert torch.equal(index, best.indices), index
    x, weight, bias = torch.randn(3, 10), torch.randn(4, 10), torch.randn(4)
    expected = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(ops.linear(x, weight, bias), expected)
    assert ops.is_widened(weight.half().float(), weight.half())


def trace_on_cuda() -> None:
    """Runs the fakes of the CUDA operators on CUDA tensors without memory."""
    with FakeTensorMode():
        query = torch.empty(2, 3, 4, 64, dtype=torch.float16, device="cuda")
        rows = torch.empty(7, 2, 1, 64, dtype=torch.float16, device="cuda")
        columns = torch.empty(2, dtype=torch.int64, device="cuda")
        context, lse = ops.attend(query, [rows], [rows], [columns], None, None)
        weights = ops.weights(query, [rows], [columns], None, None, lse)
        tokens = torch.empty(6, 20, dtype=torch.int64, device="cuda")
        logits = torch.empty(6, 9, device="cuda")
        ops.block_ngrams_(logits, tokens, 2, 20, None)
        sums = ops.log_sum_exp(logits)
        values, index = ops.top_candidates(logits, sums, sums, 3, 4)
    for result in (context, lse, weights, sums, values, index):
        assert result.device.type == "cuda", result.device
    assert (context.shape, context.dtype) == (query.shape, torch.float16)
    assert (lse.shape, lse.dtype) == (query.shape[:3], torch.float32)
    assert (weights.shape, weights.dtype) == ((2, 3, 4, 7), torch.float32)
    assert (values.shape, index.shape, index.dtype) == ((2, 4), (2, 4), torch.int64)


def main() -> None:
    """Prints what the doctor says of the extension, then checks."""
    print(*(finding.text for finding in doctor.collect() if finding.topic == "extension"))
    folder = Path(el_attention.__path__[0])
    assert folder.is_relative_to(Path(sys.prefix).resolve()), f"{folder} is not an installed one"
    assert (folder / "py.typed").exists(), "no py.typed: type checkers would ignore the hints"
    assert extension.unsupported is None, extension.unsupported
    run_on_cpu()
    built = importlib.import_module("el_attention._C").build_information()
    if built["cuda"] is not None:
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        for name in CUDA_OPERATORS:
            assert has_kernel(f"el_attention::{name}", "CUDA"), f"no CUDA kernel for {name}"
        trace_on_cuda()
        print(f"CUDA operators: {', '.join(CUDA_OPERATORS)}")
    print(f"check_installed: {folder} works")


if __name__ == "__main__":
    main()
