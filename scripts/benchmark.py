#!/usr/bin/env python3
"""Times generation with stock fairseq and with each plan, on a random model of real size.

The systems take turns in one process, round after round, so that a change in the machine's load
meets them all. Every system starts from a copy of the same weights, generates the same number of
steps, and must give the same hypotheses.

    python scripts/benchmark.py --arch bart_base --batch 8
"""

from __future__ import annotations

import argparse
import copy
import logging
import platform
import statistics
import time
from argparse import Namespace

import torch
from fairseq import models, tasks
from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import SequenceGenerator

import el_attention
from el_attention.attention import PLANS

STOCK = "stock fairseq"


class RandomTask(tasks.FairseqTask):
    """A task with a vocabulary and no data."""

    def __init__(self, words: int) -> None:
        super().__init__(Namespace())
        self.symbols = Dictionary()
        for index in range(words):
            self.symbols.add_symbol(f"w{index}")

    @property
    def source_dictionary(self) -> Dictionary:
        """The vocabulary."""
        return self.symbols

    target_dictionary = source_dictionary


def build_model(arch: str, task: RandomTask) -> BaseFairseqModel:
    """A random model of an encoder-decoder architecture, in eval mode."""
    args = Namespace(arch=arch, max_source_positions=1024, max_target_positions=1024)
    models.ARCH_CONFIG_REGISTRY[arch](args)
    return models.build_model(args, task).eval()


def build_generator(
    system: str, model: BaseFairseqModel, task: RandomTask, options: argparse.Namespace
) -> SequenceGenerator:
    """A generator over a copy of `model`, as the system has it."""
    model = copy.deepcopy(model)
    # What fairseq-generate does to every model: no attention weights unless asked for.
    model.prepare_for_inference_(
        Namespace(generation=Namespace(beam=options.beam), common_eval=Namespace())
    )
    length = {"max_len_a": 0, "max_len_b": options.tokens, "min_len": options.tokens}
    generator = task.build_generator([model], Namespace(beam=options.beam, **length))
    return generator if system == STOCK else el_attention.convert(generator, system)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="transformer", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="sentences; default: %(default)s")
    parser.add_argument("--beam", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--source", type=int, default=512, help="tokens; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=32, help="generated; default: %(default)s")
    parser.add_argument("--words", type=int, default=12000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    logging.disable(logging.INFO)

    torch.manual_seed(0)
    task = RandomTask(options.words)
    model = build_model(options.arch, task)
    special = task.symbols.nspecial
    source = torch.randint(special, special + options.words, (options.batch, options.source))
    lengths = torch.full((options.batch,), options.source)
    sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}

    seconds: dict[str, list[float]] = {system: [] for system in (STOCK, *PLANS)}
    hypotheses: dict[str, list[list[list[int]]]] = {}
    for number in range(options.rounds):
        for system in seconds:
            generator = build_generator(system, model, task, options)
            start = time.perf_counter()
            result = generator.generate(None, sample)
            seconds[system].append(time.perf_counter() - start)
            hypotheses[system] = [[h["tokens"].tolist() for h in hypos] for hypos in result]
            print(f"round {number + 1}: {system}: {seconds[system][-1]:.2f} s", flush=True)

    print(f"\n{options.arch}, batch {options.batch}, beam {options.beam}, source {options.source},")
    print(f"{options.tokens} tokens, {options.words} words, {model.decoder.num_layers} layers,")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads,")
    print(f"torch {torch.__version__}, Python {platform.python_version()}\n")
    print("| attention | samples/s | times stock | differing hypotheses |")
    print("|---|---:|---:|---:|")
    for system, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds[STOCK], times, strict=True)]
        pairs = zip(hypotheses[STOCK], hypotheses[system], strict=True)
        differing = sum(mine != theirs for mine, theirs in pairs)
        rate = options.batch / statistics.median(times)
        print(f"| {system} | {rate:.2f} | {statistics.median(ratios):.2f} | {differing} |")


if __name__ == "__main__":
    main()
