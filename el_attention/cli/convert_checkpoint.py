"""`el-attention convert-checkpoint`: weights between fairseq and Transformers."""

from __future__ import annotations

import argparse
from pathlib import Path

from el_attention.exchange import convert_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "source", type=Path, help="checkpoint file of fairseq, or folder that Transformers saved"
    )
    parser.add_argument("target", type=Path, help="new folder, for the other framework")
    parser.add_argument(
        "--dictionary",
        type=Path,
        metavar="FILE",
        help="fairseq's dictionary; default: dict.txt beside the weights",
    )


def run(options: argparse.Namespace) -> str:
    """Converts, and returns one line about what was written.

    Raises:
        ValueError: if there is something that cannot be converted or read.
    """
    try:
        return convert_checkpoint(options.source, options.target, options.dictionary)
    except (ImportError, OSError) as error:
        raise ValueError(str(error)) from error
