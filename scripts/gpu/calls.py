#!/usr/bin/env python3
"""Calls the operators on a device for the acceptance: under a sanitizer, or many in a row.

    python scripts/gpu/calls.py sizes   # small calls of every kernel, for compute-sanitizer and ncu
    python scripts/gpu/calls.py soak    # random calls on two streams by two threads

Both hold results against float64; the soak also against the bits of a second call.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

from el_attention.ops import check
from oracle import DTYPES, Size, assert_exact, random_call

WIDTHS = (512, 768, 1024, 1088, 1600)
# Each width with one range of rows and with two, a query tile of 16 and more; then kv heads.
SIZES = check.Effort(
    (
        *(check.Size(2, 2, 8, 1, width, width, (64,)) for width in WIDTHS),
        *(check.Size(1, 4, 8, 1, width, width, (100, 28)) for width in WIDTHS),
        check.Size(2, 3, 4, 4, 64, 64, (100, 28)),
        check.Size(2, 3, 4, 1, 100, 100, (70,)),
    ),
    check.FIRST.logits,
)


def sizes(device: str, dtypes: list[str]) -> int:
    """Makes the calls of SIZES; returns the number of operators that are wrong."""
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    wrong = calls = 0
    for name in dtypes:
        for operator in check.OPERATORS:
            outcome = check.run(operator, place, getattr(torch, name), SIZES)
            calls += outcome.calls
            if outcome.fault is not None:
                wrong += 1
                print(f"{operator}, {name}: {outcome.fault}")
    print(f"summary: {calls} calls in {', '.join(dtypes)}, {wrong} operators wrong")
    return wrong


def random_size(numbers: random.Random) -> Size:
    """Sizes for any kernel, small enough for float64 on a CPU."""
    heads = numbers.choice([1, 2, 3, 8])
    kv_heads = numbers.choice([1, heads])
    width = numbers.choice([8, 13, 64, 80, 512, 768, 1024]) if kv_heads == 1 else 64
    lengths = tuple(numbers.randint(1, 150) for _ in range(numbers.randint(1, 3)))
    return Size(
        numbers.randint(1, 4), numbers.randint(1, 6), heads, kv_heads, width, width, lengths
    )


def soak(device: str, calls: int, seconds: float) -> int:
    """Makes random calls by two threads; returns the number of those that are wrong."""
    end, made, wrong = time.monotonic() + seconds, [0, 0], []

    def work(thread: int) -> None:
        numbers = random.Random(thread)
        stream = torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else nullcontext()
        with stream, torch.no_grad():
            while made[thread] < calls // 2 and time.monotonic() < end:
                size, dtype = random_size(numbers), numbers.choice(DTYPES)
                seen = numbers.choice(["all", "by all beams", "by each beam"])
                seed, biased = numbers.randrange(1000), numbers.random() < 0.3
                made[thread] += 1
                try:
                    call = random_call(size, dtype, device, seen, seed, biased)
                    assert_exact(call)
                    first, second = call.attend(), call.attend()
                    if not all(torch.equal(x, y) for x, y in zip(first, second, strict=True)):
                        raise AssertionError("two calls differ in their bits")
                except (AssertionError, RuntimeError) as error:
                    wrong.append(f"{size}, {dtype}, {seen}, seed {seed}, bias {biased}: {error}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for line in wrong[:20]:
        print(line)
    print(f"summary: {sum(made)} of {calls} random calls made, {len(wrong)} wrong")
    return len(wrong)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("sizes", "soak"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16", "float32"])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    if options.what == "sizes":
        wrong = sizes(options.device, options.dtypes)
    else:
        wrong = soak(options.device, options.calls, options.seconds)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
