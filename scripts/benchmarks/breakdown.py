"""Where a decoder step of stock fairseq and of this plugin spends its time, by kind of operator.

    PYTHONPATH=scripts:examples python -m benchmarks.breakdown --batch 1 8 32

A profile of a whole generation less that of its first step. "Python" is what no operator of torch
accounts for: the interpreter and the dispatch. Profiling makes steps longer, those of many small
operators most: shares are of the profiled time, and `bench` has the times without.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import report
from benchmarks.cases import MODELS, Case
from benchmarks.systems import SYSTEMS, System
from benchmarks.weights import sources_of, write_checkpoint
from common.measurements import machine

KINDS = {
    "linear layers, vocabulary": ("aten::addmm", "aten::mm", "el_attention::linear"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_softmax", "el_attention::attend"),
    "norms, activations, sums": (
        "aten::native_layer_norm",
        "aten::gelu",
        "aten::relu",
        "aten::add",
        "aten::mul",
    ),
    "moving states": ("aten::copy_", "aten::index_select", "aten::index_copy_", "aten::cat"),
    "scores of words": (
        "aten::_log_softmax",
        "aten::topk",
        "el_attention::log_sum_exp",
        "el_attention::top_candidates",
    ),
}
OTHER, PYTHON = "other operators", "Python"


def seconds_by_kind(system: System, case: Case, sources: Tensor) -> dict[str, float]:
    """Seconds of a generation, by kind of operator, under the profiler.

    Args:
        system: with its model.
        case: what is generated.
        sources: see `System.generate`.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = perf_counter()
        system.generate(case, sources)
        whole = perf_counter() - start
    kinds = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    found: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        found[kinds.get(event.key, OTHER)] += event.self_cpu_time_total / 1e6
    found[PYTHON] = whole - sum(found.values())
    return found


def shares(name: str, case: Case, folder: Path) -> list[str]:
    """The line of a system: milliseconds of a step under the profiler, and the share of each kind.

    Args:
        name: the name of the system.
        case: what is generated.
        folder: with the checkpoint.
    """
    kind, options = SYSTEMS[name]
    system = kind(case, folder, **options)
    system.load()
    sources, first = sources_of(case), replace(case, steps=1)
    system.generate(case, sources)
    all_steps, one = (seconds_by_kind(system, each, sources) for each in (case, first))
    step = {kind: all_steps[kind] - one[kind] for kind in (*KINDS, OTHER, PYTHON)}
    whole = sum(step.values())
    steps = case.steps - first.steps
    percent = [f"{100 * seconds / whole:.0f}%" for seconds in step.values()]
    return [str(case.batch), name, f"{1000 * whole / steps:.1f}", *percent]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table.

    Args:
        argv: the arguments after the program's name; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(
        prog="benchmarks.breakdown", description="Shares of a decoder step."
    )
    parser.add_argument("--model", choices=[*MODELS], default="bart")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32], metavar="SENTENCES")
    parser.add_argument("--source", type=int, default=512, help="tokens (%(default)s)")
    options = parser.parse_args(argv)
    logging.disable(logging.INFO)
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    print(", ".join(f"{name} {value}" for name, value in machine().items()) + "\n")
    header = ["batch", "system", "step, ms", *KINDS, OTHER, PYTHON]
    print(report.row(header))
    print(report.row(["---:", "---", *["---:"] * (len(header) - 2)]))
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(MODELS[options.model], Path(folder))
        for batch in options.batch:
            case = Case(MODELS[options.model], batch, beam=4, source=options.source, steps=24)
            for name in ("fairseq", "el-attention"):
                print(report.row(shares(name, case, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
