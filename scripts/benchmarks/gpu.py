#!/usr/bin/env python3
"""Times the CUDA operators and what they replace, and compares with what the GPU can reach.

All systems attend from the beams of each sentence to the same source, in one decoding step of one
layer.  They take turns, round after round.  Each call reads other copies of its states, together
larger than the GPU's caches; the calls are replayed as a CUDA graph, so that only the GPU's time
counts.  Prints Markdown.

    python scripts/benchmarks/gpu.py --model large --batch 1 8 32 > results.md
    python scripts/benchmarks/gpu.py --device cpu --model tiny --batch 2   # tries the script itself
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from el_attention.ops import compiled, contract, expand

MODELS = {"tiny": (4, 64), "base": (12, 768), "large": (16, 1024)}  # heads, width
SDPA = "scaled_dot_product_attention"
Call = Callable[[], Tensor]


@dataclass
class System:
    """One way to do the step.

    Attributes:
        calls: the step over each copy of the states.
        bytes: that a call must move at least.
        flops: the operations of its products.
    """

    calls: Sequence[Call]
    bytes: int
    flops: int


def stopwatch(calls: Sequence[Call], device: str) -> Callable[[], float]:
    """A function that makes all calls and returns the seconds that one of them took."""

    def run() -> None:
        for call in calls:
            call()

    def seconds_on_cpu() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / len(calls)

    if device == "cpu":
        return seconds_on_cpu

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what libraries set up on first use cannot be recorded
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()

    def seconds_on_gpu() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / len(calls)

    return seconds_on_gpu


def in_turns(systems: dict[str, System], options: argparse.Namespace) -> dict[str, float]:
    """The median of the seconds of a call of each system, over rounds in which all take part."""
    watches = {name: stopwatch(system.calls, options.device) for name, system in systems.items()}
    rounds = [{name: watch() for name, watch in watches.items()} for _ in range(options.rounds)]
    return {name: statistics.median(seconds[name] for seconds in rounds) for name in systems}


def ceilings(options: argparse.Namespace, dtype: torch.dtype) -> dict[str, System]:
    """A large copy and a large matrix product."""
    size = 4096 if options.device == "cuda" else 512
    left, right = torch.randn(2, size, size, device=options.device).to(dtype).unbind()
    source = torch.zeros(16 * size * size, dtype=dtype, device=options.device)
    target = torch.empty_like(source)
    return {
        "copy": System([lambda: target.copy_(source)], 2 * source.nbytes, 0),
        "product": System([lambda: left @ right], 0, 2 * size**3),
    }


def attention_systems(
    options: argparse.Namespace, dtype: torch.dtype, batch: int
) -> dict[str, System]:
    """The attention of one step in every form, over the same states."""
    (heads, width), beam, rows = MODELS[options.model], options.beam, options.source
    head_dim = width // heads
    device, attend = options.device, torch.ops.el_attention.attend
    random = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device).to(dtype)

    query = normal(batch, beam, heads, head_dim) / math.sqrt(head_dim)
    key_weight, value_weight = (normal(width, width) / math.sqrt(width) for _ in range(2))
    expanded = expand(query, key_weight)
    columns = torch.arange(batch, device=device)
    copies = math.ceil(options.spread * 2**20 / (batch * rows * width * dtype.itemsize))

    def unfused(states: Tensor, wide: Tensor) -> Tensor:
        by_sentence = states.transpose(0, 1)
        flat = wide.reshape(batch, beam * heads, width)
        weights = torch.softmax(flat @ by_sentence.transpose(1, 2), -1)
        return (weights @ by_sentence).view(wide.shape)

    def fused(states: Tensor, wide: Tensor) -> Tensor:
        segment = [states.unsqueeze(2)]
        context: Tensor = attend(wide, segment, segment, [columns], None, None)[0]
        return context

    def in_full(read: Callable[[Tensor, Tensor], Tensor], states: Tensor) -> Tensor:
        return contract(read(states, expand(query, key_weight)), value_weight, None)

    def shared(keys: Tensor, values: Tensor) -> Tensor:
        context: Tensor = attend(query, [keys], [values], [columns], None, None)[0]
        return context

    # In the layout that suits it best: beams as the positions of a query, all contiguous.
    by_head = query.transpose(1, 2).contiguous()

    def sdpa(keys: Tensor, values: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(by_head, keys, values, scale=1.0)

    all_states = [normal(rows, batch, width) for _ in range(copies)]
    # The very keys and values that the states stand for.
    keys = [functional.linear(s, key_weight).unflatten(2, (heads, -1)) for s in all_states]
    values = [functional.linear(s, value_weight).unflatten(2, (heads, -1)) for s in all_states]
    pairs = list(zip(keys, values, strict=True))
    turned = [[x.permute(1, 2, 0, 3).contiguous() for x in pair] for pair in pairs]

    states_bytes = all_states[0].nbytes
    wide_bytes = states_bytes + 2 * expanded.nbytes
    wide_flops = 4 * batch * beam * heads * rows * width
    full_bytes = states_bytes + 2 * key_weight.nbytes + 2 * query.nbytes
    full_flops = wide_flops + 4 * batch * beam * width * width
    narrow_bytes = 2 * states_bytes + 2 * query.nbytes
    narrow_flops = 4 * batch * beam * rows * width
    systems = {}
    for name, read in (("expanded query", fused), ("expanded query, unfused", unfused)):
        calls = [partial(read, states, expanded) for states in all_states]
        systems[name] = System(calls, wide_bytes, wide_flops)
        calls = [partial(in_full, read, states) for states in all_states]
        systems[f"{name}, with projections"] = System(calls, full_bytes, full_flops)
    calls = [partial(shared, *pair) for pair in pairs]
    systems["shared projection"] = System(calls, narrow_bytes, narrow_flops)
    calls = [partial(sdpa, *pair) for pair in turned]
    systems[SDPA] = System(calls, narrow_bytes, narrow_flops)
    expected = systems[SDPA].calls[0]().transpose(1, 2)
    for name in ("expanded query, with projections", "shared projection"):
        torch.testing.assert_close(systems[name].calls[0](), expected, rtol=0.02, atol=0.02)
    return systems


def other_systems(options: argparse.Namespace, dtype: torch.dtype, batch: int) -> dict[str, System]:
    """The other operators; what they read stays in the caches."""
    heads, width = MODELS[options.model]
    device, beam, rows = options.device, options.beam, options.source
    random = torch.Generator(device).manual_seed(0)
    query = torch.randn(batch, beam, heads, width, generator=random, device=device).to(dtype)
    states = torch.randn(rows, batch, 1, width, generator=random, device=device).to(dtype)
    columns = torch.arange(batch, device=device)
    lse = torch.ops.el_attention.attend(query, [states], [states], [columns], None, None)[1]
    tokens = torch.randint(4, 50, (batch * beam, 200), generator=random, device=device)
    lprobs = torch.randn(batch * beam, 50000, generator=random, device=device)
    ops = torch.ops.el_attention

    def ngrams() -> Tensor:
        ops.block_ngrams_(lprobs, tokens, 3, 200, None)
        return lprobs

    sums = ops.log_sum_exp(lprobs)

    def candidates() -> Tensor:
        return ops.top_candidates(lprobs, sums, sums, beam, 2 * beam)[0]

    weights = partial(ops.weights, query, [states], [columns], None, None, lse)
    weights_bytes = states.nbytes + query.nbytes + batch * beam * heads * rows * lse.itemsize
    return {
        "weights": System([weights], weights_bytes, 2 * batch * beam * heads * rows * width),
        "block_ngrams_": System([ngrams], tokens.nbytes, 0),
        "log_sum_exp": System([partial(ops.log_sum_exp, lprobs)], lprobs.nbytes, 0),
        "top_candidates": System([candidates], lprobs.nbytes, 0),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=tuple(MODELS), default="base")
    parser.add_argument("--dtype", default="float16", help="default: %(default)s")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="sentences")
    parser.add_argument("--beam", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--source", type=int, default=1024, help="tokens; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument(
        "--spread",
        type=int,
        default=256,
        help="MiB of states to read in turn; default: %(default)s",
    )
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error(f"there is no GPU that torch {torch.__version__} can use (--device cpu?)")
    reason = compiled.unsupported(torch.empty(0, dtype=dtype, device=options.device))
    if reason is not None:
        parser.error(f"no operators for {options.device}: {reason}")

    limits = ceilings(options, dtype)
    limit_seconds = in_turns(limits, options)
    bandwidth = limits["copy"].bytes / limit_seconds["copy"]
    arithmetic = limits["product"].flops / limit_seconds["product"]
    heads, width = MODELS[options.model]
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {datetime.date.today()}:")
    print(f"{options.dtype}, {heads} heads, width {width}, beam {options.beam}, ", end="")
    print(f"source {options.source}; median of {options.rounds} rounds.")
    print(f"A large copy: {bandwidth / 1e9:.0f} GB/s; a large product: ", end="")
    print(f"{arithmetic / 1e12:.2f} TFLOP/s.\n")
    print("| batch | system | µs | GB/s | of copy | TFLOP/s | of product | times SDPA |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for batch in options.batch:
        systems = attention_systems(options, dtype, batch) | other_systems(options, dtype, batch)
        seconds = in_turns(systems, options)
        for title, system in systems.items():
            moved, computed = system.bytes / seconds[title], system.flops / seconds[title]
            print(
                f"| {batch} | {title} | {1e6 * seconds[title]:.1f} "
                f"| {moved / 1e9:.0f} | {moved / bandwidth:.0%} "
                f"| {computed / 1e12:.2f} | {computed / arithmetic:.0%} "
                f"| {seconds[SDPA] / seconds[title]:.2f} |"
            )


if __name__ == "__main__":
    main()
