"""Command line: `run` measures tables, `report` makes a document of the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from el_attention.cost import ARCHITECTURES, GIB
from research.tables import report, store
from research.tables.cells import CAPPED, PROFILES, TABLES, Job, Profile, Source, cells


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments after the program's name; ``sys.argv[1:]`` if None.

    Returns:
        The exit status: 1 if a cell failed.
    """
    parser = argparse.ArgumentParser(
        prog="research.tables", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure the cells of tables that have no result yet")
    run.add_argument(
        "tables", nargs="+", choices=(*TABLES, CAPPED, "all"), metavar="table", help="%(choices)s"
    )
    run.add_argument("--again", action="store_true", help="measure finished cells as well")
    run.add_argument("--report", action="store_true", help="then do what the command report does")
    run.add_argument("--device", help="of torch; default: cuda for full, else cpu")
    run.add_argument("--memory", type=float, metavar="GIB", help="that a cell may use, at most")
    run.add_argument("--sentences", type=int, help="that each cell generates for")
    run.add_argument("--rounds", type=int, help="times that all sentences are generated for")
    run.add_argument(
        "--model", action="append", choices=[*ARCHITECTURES], help="only this model; repeatable"
    )
    run.add_argument(
        "--input",
        nargs=4,
        action="append",
        default=[],
        metavar=("MODEL", "TASK", "CHECKPOINT", "DATA"),
        help="checkpoint and data of a model and task of the paper, e.g. bart.large CNN/DM "
        "checkpoint.pt data-bin; repeatable; random weights and words where there is none",
    )
    run.add_argument(
        "--references",
        nargs=4,
        action="append",
        default=[],
        metavar=("MODEL", "TASK", "PIECES", "FILE"),
        help="text of the targets of an --input, one a line, to compute ROUGE with; PIECES, how "
        "tokens become text, is sentencepiece or gpt2=FOLDER of the BPE; repeatable",
    )
    document = commands.add_parser("report", help="write report.md, plots and report.html")
    for command in (run, document):
        command.add_argument("--profile", choices=[*PROFILES], default="smoke")
        command.add_argument("--results", type=Path, help="folder; default: build/tables/PROFILE")
    options = parser.parse_args(argv)
    folder = options.results or Path("build/tables") / options.profile
    if options.command == "report":
        return _report(folder)
    wanted = TABLES if "all" in options.tables else options.tables
    failed = store.run(folder, jobs(profile_of(options), wanted, options), again=options.again)
    print("\n" + report.markdown(report.sections(folder, wanted)))
    if options.report:
        _report(folder)
    if failed:
        names = ", ".join(f"{cell.table}/{cell.name}" for cell in failed)
        print(f"{len(failed)} failed, and are tried again next time: {names}", file=sys.stderr)
    return 1 if failed else 0


def _report(folder: Path) -> int:
    print("\n".join(f"wrote {path}" for path in report.write(folder)))
    return 0


def profile_of(options: argparse.Namespace) -> Profile:
    """The chosen profile with the options that change it."""
    profile = PROFILES[options.profile]
    changes = {
        "device": options.device,
        "memory": options.memory and options.memory * GIB,
        "sentences": options.sentences,
        "rounds": options.rounds,
    }
    return replace(profile, **{name: value for name, value in changes.items() if value is not None})


def jobs(profile: Profile, tables: Sequence[str], options: argparse.Namespace) -> list[Job]:
    """The jobs of tables, in order."""
    sources = {(arch, task): Source(*paths) for arch, task, *paths in options.input}
    for arch, task, pieces, path in options.references:
        if (arch, task) not in sources:
            raise SystemExit(f"--references: expected an --input of {arch} {task}, found none")
        sources[arch, task] = replace(sources[arch, task], pieces=pieces, references=path)
    found = [
        Job(cell, profile, sources.get((cell.arch, cell.task)))
        for table in tables
        for cell in cells(table, profile.dtypes)
        if options.model is None or cell.arch in options.model
    ]
    known = {(job.cell.arch, job.cell.task) for job in found}
    if sources.keys() - known:
        raise SystemExit(f"--input: expected a model and task of {sorted(known)}, got {[*sources]}")
    return found


if __name__ == "__main__":
    sys.exit(main())
