"""Command line of the package: the doctor and the path for fairseq's ``--user-dir``."""

import argparse
from collections.abc import Sequence

import el_attention
from el_attention import doctor


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the console script ``el-attention``.

    Args:
        argv: the arguments after the program's name; ``sys.argv[1:]`` if None.

    Returns:
        The exit status: 1 if the doctor finds that the plugin cannot be used, else 0.

    Raises:
        SystemExit: for ``--help`` and ``--version`` (status 0) and wrong arguments (status 2).
    """
    parser = argparse.ArgumentParser(
        prog="el-attention",
        description="Checks this installation of EL-attention, or prints its --user-dir path.",
    )
    parser.add_argument(
        "--version", action="version", version=f"el-attention {el_attention.__version__}"
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("doctor", "user-dir"),
        default="doctor",
        help="doctor (default): report versions, fairseq, plugin, CUDA and what stands in the way; "
        "user-dir: print the path alone, for fairseq-generate --user-dir $(el-attention user-dir)",
    )
    if parser.parse_args(argv).command == "user-dir":
        print(doctor.user_dir())
        return 0
    findings = doctor.collect()
    print(doctor.render(findings))
    return 0 if doctor.is_usable(findings) else 1
