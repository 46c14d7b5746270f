"""Score a file of hypotheses against a file of references, one sentence a line.

For example, with what examples/summarization_xsum/run.sh has written:

    cd build/summarization_xsum/full
    python ../../../examples/score.py --hypotheses report/stock.txt --references data/test.target
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common.lines import read_lines
from common.scores import METRICS, score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hypotheses", type=Path, required=True)
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument(
        "--metrics", nargs="+", choices=METRICS, default=list(METRICS), help="default: all"
    )
    args = parser.parse_args()
    try:
        scores = score(read_lines(args.hypotheses), read_lines(args.references), args.metrics)
    except (LookupError, OSError, ValueError) as error:
        sys.exit(f"score.py: {error}")
    print(json.dumps({name: round(value, 2) for name, value in scores.items()}, indent=1))


if __name__ == "__main__":
    main()
