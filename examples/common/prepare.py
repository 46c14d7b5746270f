"""The command line that every data set's prepare.py has."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from common.acquire import DataError, Policy, add_policy_options, policy_of
from common.pairs import Pair, write_pairs


def run(
    description: str | None,
    pairs: Callable[[Path, Policy], Iterable[tuple[str, Pair]]],
    expected: Mapping[str, int],
) -> None:
    """Write the pairs that `pairs` finds in a folder; leave with a message if something is wrong.

    Args:
        description: the description of the command, for --help.
        pairs: (folder with the published files, policy) -> (split, pair) of every pair.
        expected: the published number of pairs in each split.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with the published files")
    parser.add_argument("output", type=Path, help="folder to write")
    add_policy_options(parser)
    args = parser.parse_args()
    policy = policy_of(args)
    try:
        write_pairs(pairs(args.data, policy), args.output, expected, policy)
    except (DataError, OSError, json.JSONDecodeError, tarfile.TarError) as error:
        sys.exit(f"{Path(sys.argv[0]).resolve().parent.name}: {error}")
