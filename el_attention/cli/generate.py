"""`el-attention generate` and `el-attention merge`: a corpus through a model."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

from el_attention.attention import PLAN_CHOICES
from el_attention.cli.plan import DTYPES
from el_attention.corpus import Recipe, Shard, Source, generate, merge
from el_attention.corpus.run import ENGINES
from el_attention.robust.memory import bytes_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `el-attention generate`."""
    parser.add_argument(
        "model",
        help="folder of a model of Transformers, or name that it knows; or a checkpoint of "
        "fairseq, a .pt file, or several with colons between them",
    )
    parser.add_argument(
        "input",
        type=Path,
        help="objects of JSON in lines (.jsonl), .parquet, or else a text in each line; or, for "
        "checkpoints of fairseq, a folder that fairseq-preprocess wrote",
    )
    parser.add_argument(
        "output",
        type=Path,
        help=".jsonl or .parquet: id, hypotheses, scores and reason of each row; what is finished "
        "is kept in OUTPUT.run, and the same command continues a run that was ended",
    )
    parser.add_argument(
        "--text-column", default="text", help="column of the texts; default: %(default)s"
    )
    parser.add_argument(
        "--id-column", help="column of the ids, each once; default: the number of the row, from 1"
    )
    parser.add_argument(
        "--split", default="test", help="data set in a folder; default: %(default)s"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="of the dictionaries of a checkpoint of fairseq; default: the data set, or the "
        "checkpoint's folder",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="of generate, such as num_beams=4, or of fairseq-generate, such as beam=4, bpe=gpt2; "
        "may be repeated; output_scores=true for scores of a model of Transformers",
    )
    parser.add_argument(
        "--truncation",
        action="store_true",
        help="cut texts that are too long; else nothing is generated for them",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of sampling, for each row; default: %(default)s"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; default: a GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="default: that of the weights")
    parser.add_argument(
        "--plan", choices=PLAN_CHOICES, default="auto", help="of attention; default: %(default)s"
    )
    parser.add_argument(
        "--batch-size",
        type=_number,
        help="rows, at most; default: what the memory holds, up to 512",
    )
    parser.add_argument(
        "--memory-budget",
        type=_size,
        metavar="SIZE",
        help="for states and temporaries of a batch, such as 12GiB; default: what is free",
    )
    parser.add_argument(
        "--workers",
        type=_number,
        help="number, each with the model, cores of its own and a GPU if there are; one that dies "
        "is replaced; default: none but this process",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="processes",
        help="what the workers are: processes here, or actors of the Ray cluster at RAY_ADDRESS; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=Shard(),
        metavar="K/N",
        help="generate the K-th of N parts; default: %(default)s",
    )
    parser.add_argument("--quiet", action="store_true", help="write warnings and no progress")


def run(options: argparse.Namespace) -> str:
    """Generates, and returns a line about what was written.

    Raises:
        ImportError, OSError, RuntimeError, TypeError, ValueError: see `corpus.generate`.
    """
    logging.basicConfig(level=logging.WARNING if options.quiet else logging.INFO)
    recipe = Recipe(
        model=options.model,
        options=dict(options.option),
        device=options.device,
        dtype=options.dtype,
        plan=options.plan,
        batch_size=options.batch_size,
        truncation=options.truncation,
        seed=options.seed,
        data=options.data,
    )
    report = generate(
        recipe,
        Source(options.input, options.text_column, options.id_column, options.split),
        options.output,
        workers=options.workers,
        engine=options.engine,
        shard=options.shard,
        memory_budget=options.memory_budget,
        progress=None if options.quiet else sys.stderr,
    )
    return str(report)


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `el-attention merge`."""
    parser.add_argument("input", type=Path, help="what the shards were generated for")
    parser.add_argument("output", type=Path, help=".jsonl or .parquet, which is not there yet")
    parser.add_argument("shards", type=Path, nargs="+", help="outputs of all shards, in any order")


def run_merge(options: argparse.Namespace) -> str:
    """Merges, and returns a line about what was written.

    Raises:
        ImportError, OSError, ValueError: see `corpus.merge`.
    """
    rows = merge(options.input, options.shards, options.output)
    return f"{options.output}: {rows:,} rows of {len(options.shards)} shards"


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as num_beams=4, got {text!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _number(text: str) -> int:
    if re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _size(text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _shard(text: str) -> Shard:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, got {text!r}")
    return Shard(int(match[1]), int(match[2]))
