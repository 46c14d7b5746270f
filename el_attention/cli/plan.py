"""`el-attention plan`: what the planner would choose, for any model and device, and why."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

import el_attention
from el_attention.attention import (
    FITTED,
    MEASURED,
    SELF,
    SOURCE,
    Candidate,
    best,
    candidates,
    largest_batch_in,
    plans_of,
    ranges,
    rates_of,
)
from el_attention.cli import plan_corpus
from el_attention.corpus import Source
from el_attention.cost import (
    ARCHITECTURES,
    CPU,
    DEVICES,
    Architecture,
    Device,
    Rates,
    Workload,
    narrow_weights,
    usable,
)
from el_attention.robust.memory import bytes_of, free_bytes, in_units

DTYPES = ("float64", "float32", "float16", "bfloat16")
SHORT_NAMES = {device.name.split(" ")[0].lower(): device for device in DEVICES.values()}
SHORT_NAMES["rtx4090"] = SHORT_NAMES.pop("rtx")
BEAMS, SOURCES = range(1, 65), [2**power for power in range(4, 14)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--arch", default="bart_large", help="of fairseq, or of the paper; default: %(default)s"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        choices=["cpu", *SHORT_NAMES],
        help="cpu has the memory of this one and the rates of 2 cores; default: %(default)s",
    )
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    for name, default, meaning in (
        ("source", 1024, "tokens of each source or prompt"),
        ("beam", 4, "hypotheses of each sentence"),
        ("tokens", 128, "generated for each sentence"),
        ("batch", 32, "sentences"),
        ("vocabulary", 50265, "words, for architectures of fairseq"),
    ):
        parser.add_argument(
            f"--{name}", type=_size, default=default, help=f"{meaning}; default: %(default)s"
        )
    parser.add_argument(
        "--memory-budget",
        metavar="SIZE",
        help="for states and temporaries, such as 12GiB; default: the device's memory less weights",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="FILE",
        help="also what el-attention generate would take for its rows, whatever --source says",
    )
    parser.add_argument("--text-column", default="text", help="of the corpus; default: %(default)s")
    parser.add_argument(
        "--workers",
        type=_size,
        default=1,
        help="with a device each, for the corpus; default: %(default)s",
    )


def _size(text: str) -> int:
    """Reads a number of tokens, sentences and the like.

    Raises:
        ArgumentTypeError: if it is none from 1 to 2**31 - 1.
    """
    shown = text if len(text) <= 40 else f"{text[:40]}... ({len(text)} characters)"
    if re.fullmatch(r"\d{1,10}", text, re.ASCII) is None or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 1 to {2**31 - 1}, got {shown!r}"
        )
    return int(text)


def run(options: argparse.Namespace) -> str:
    """Returns the report.

    Raises:
        ImportError, OSError: if the corpus cannot be read.
        ValueError: if there is no such architecture, a size is none, or no row has a text.
    """
    arch = architecture(options.arch, options.vocabulary)
    load = Workload(
        options.dtype, options.batch, options.beam, options.source, options.tokens, options.tokens
    )
    if options.device == "cpu":
        cpu = torch.device("cpu")
        device, rates = rates_of(cpu, getattr(torch, options.dtype))
        device = replace(device, memory=free_bytes(cpu))
    else:
        device, rates = SHORT_NAMES[options.device], FITTED
    weights = arch.weights * load.item
    available = usable(device, options.device != "cpu") - weights
    if options.memory_budget is not None:
        available = bytes_of(options.memory_budget)
    lines = [*report(arch, load, device, rates, available)]
    if options.corpus is not None:
        source = Source(options.corpus, options.text_column)
        lines[-1:-1] = [
            *plan_corpus.report(source, options.workers, arch, load, device, rates, available),
            "",
        ]
    return "\n".join(lines)


def architecture(name: str, vocabulary: int) -> Architecture:
    """Finds an architecture by its name in the paper or in fairseq.

    Raises:
        ValueError: if there is none.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if el_attention.fairseq_error is None:
        from el_attention.fairseq_plugin.architecture import architecture_named

        return architecture_named(name, vocabulary)
    raise ValueError(
        f"--arch: expected one of {[*ARCHITECTURES]} (those of fairseq need fairseq: "
        f"{el_attention.fairseq_error}), got {name!r}"
    )


def report(
    arch: Architecture, load: Workload, device: Device, rates: Rates, available: float
) -> Iterator[str]:
    """Yields the lines of the report, in Markdown."""
    found = candidates(arch, load, device, rates)
    chosen = best(found, available)
    source = "measured" if rates is MEASURED else "data sheet, shares reached as on a V100"
    sizes = f"beam {load.beam}, source {load.source}, {load.last_end} tokens, batch {load.batch}"
    yield f"{arch.name}, {load.dtype}, {sizes}"
    yield f"{device.name} ({source}); {in_units(available)} for states and temporaries"
    if device.name == CPU.name and load.dtype == "float32":
        size = in_units(narrow_weights(arch))
        yield f"weights that are 16-bit numbers are kept so, too, for steps: {size} more at most"
    yield ""
    yield "| plans | states | needed | largest batch | ms per step | samples/s |"
    yield "|---|---:|---:|---:|---:|---:|"
    for candidate in found:
        largest = largest_batch_in(arch, plans_of(candidate.expanded, device), load, available)
        cells = [
            plans(candidate) + (" (chosen)" if candidate is chosen else ""),
            in_units(candidate.state_bytes),
            in_units(candidate.needed_bytes),
            f"{largest:,}",
            f"{1e3 * candidate.step_seconds:.3g}",
            f"{load.batch / candidate.seconds:.3g}",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    largest = max(
        largest_batch_in(arch, plans_of(candidate.expanded, device), load, available)
        for candidate in found
    )
    batches = [2**power for power in range(max(1, largest).bit_length())]
    for field, values in (("beam", BEAMS), ("source", SOURCES), ("batch", batches)):
        parts = [
            f"{first} to {last}: {plans(candidate)}"
            for first, last, candidate in ranges(
                arch, load, device, rates, available, field, values
            )
        ]
        yield f"by {field}: " + "; ".join(parts)
    yield ""
    yield "Every time is an estimate: scripts/research/COST_MODEL.md says how far to trust it."


def plans(candidate: Candidate) -> str:
    """Names the plans of a candidate; one name if they are the same."""
    names = {
        kind: "expanded-query" if expanded else "shared-projection"
        for kind, expanded in candidate.expanded.items()
    }
    if len(set(names.values())) == 1:
        return names[SELF]
    return f"{names[SOURCE]} for the source, {names[SELF]} for generated tokens"
