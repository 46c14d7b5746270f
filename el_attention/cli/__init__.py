"""Command line of the package: the doctor, the path for ``--user-dir``, and its tools."""

import argparse
import sys
from collections.abc import Sequence

import el_attention
from el_attention.cli import convert_checkpoint, doctor, generate, gpu, plan


def parser() -> argparse.ArgumentParser:
    """Returns the parser of ``el-attention``; the reference of its options is made from it."""
    command_line = argparse.ArgumentParser(
        prog="el-attention",
        description="Checks this installation of EL-attention, prints its --user-dir path, "
        "generates for a corpus, shows which plan it would choose, or converts checkpoints.",
    )
    command_line.add_argument(
        "--version", action="version", version=f"el-attention {el_attention.__version__}"
    )
    commands = command_line.add_subparsers(dest="command")
    diagnosing = commands.add_parser(
        "doctor",
        help="(default) report versions, fairseq, plugin, CUDA and what stands in the way",
    )
    diagnosing.add_argument(
        "--gpu",
        action="store_true",
        help="try every compiled operator on every GPU, and print what came of it",
    )
    commands.add_parser(
        "user-dir",
        help="print the path alone, for fairseq-generate --user-dir $(el-attention user-dir)",
    )
    generating = commands.add_parser(
        "generate",
        help="hypotheses for all rows of a file, with a model of Transformers or fairseq",
    )
    generate.add_arguments(generating)
    generating.set_defaults(run=generate.run)
    merging = commands.add_parser(
        "merge", help="one file of the outputs of generate --shard, with each row once"
    )
    generate.add_merge_arguments(merging)
    merging.set_defaults(run=generate.run_merge)
    planning = commands.add_parser(
        "plan", help="memory, speed and choice of plans for a model on a device, predicted"
    )
    plan.add_arguments(planning)
    planning.set_defaults(refuse=planning.error, run=plan.run)
    converting = commands.add_parser(
        "convert-checkpoint",
        help="BART and GPT-2-style language models between fairseq and Transformers, both ways",
    )
    convert_checkpoint.add_arguments(converting)
    converting.set_defaults(refuse=converting.error, run=convert_checkpoint.run)
    return command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the console script ``el-attention``.

    Args:
        argv: the arguments after the program's name; ``sys.argv[1:]`` if None.

    Returns:
        The exit status: 1 if the doctor finds that the plugin cannot be used, or an operator wrong
        on a GPU, or a corpus cannot be generated for, 130 after an interrupt, else 0.

    Raises:
        SystemExit: for ``--help`` and ``--version`` (status 0) and wrong arguments (status 2).
    """
    options = parser().parse_args(argv)
    if options.command == "user-dir":
        print(doctor.user_dir())
        return 0
    if options.command in ("plan", "convert-checkpoint"):
        try:
            print(options.run(options))
        except (ImportError, OSError, ValueError) as error:
            options.refuse(str(error))
        return 0
    if options.command in ("generate", "merge"):
        try:
            print(options.run(options))
        except KeyboardInterrupt:
            print("\nstopped; the same command continues", file=sys.stderr)
            return 130
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            print(f"el-attention {options.command}: {error}", file=sys.stderr)
            return 1
        return 0
    if options.command == "doctor" and options.gpu:
        text, right = gpu.report(gpu.gpus())
        print(text)
        return 0 if right else 1
    findings = doctor.collect()
    print(doctor.render(findings))
    return 0 if doctor.is_usable(findings) else 1
