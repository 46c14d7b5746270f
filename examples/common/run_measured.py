"""Run a command, keep what it prints, and record its wall time and peak memory.

Imports nothing heavy: a child's peak can never be less than what its parent held at the fork.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def run(command: list[str], output: Path) -> int:
    """Run `command`, its standard output in `output`/stdout, its standard error in .../stderr.

    Returns the exit status. On success also writes `output`/run.json: the command, wall_seconds
    and peak_rss_bytes (the largest resident set of the process).
    """
    output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    # Two files: in one, what is written to the first could land inside a line of the second.
    with (output / "stdout").open("wb") as stdout, (output / "stderr").open("wb") as stderr:
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    sys.stderr.write((output / "stderr").read_text(errors="replace"))
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode == 0:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, see getrusage(2)
        record = {
            "command": command,
            "wall_seconds": round(wall, 2),
            "peak_rss_bytes": usage.ru_maxrss * unit,
        }
        (output / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    return child.returncode


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("command", nargs="+", help="after --: the command and its arguments")
    args = parser.parse_args()
    return run(args.command, args.output)


if __name__ == "__main__":
    sys.exit(main())
