"""Command line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import floor, report
from benchmarks.cases import MODELS, Case, Model, shrunk
from benchmarks.run import measure
from benchmarks.systems import DEFAULT, SYSTEMS
from benchmarks.weights import write_checkpoint
from common.measurements import machine

DEFAULT_MODELS = ["bart", "transformer", "lm"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints tables, writes them, results.json and plots.

    Args:
        argv: the arguments after the program's name; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=DEFAULT_MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32], metavar="SENTENCES")
    parser.add_argument("--systems", nargs="+", choices=[*SYSTEMS], default=DEFAULT)
    for name, default, text in (
        ("beam", 4, "hypotheses of each sentence"),
        ("source", 512, "tokens of each source or prompt"),
        ("steps", 24, "of the decoder, at least 2"),
        ("rounds", 3, "turns of each system"),
        ("once", 20, "seconds; a system that takes longer to generate has one turn only"),
        ("threads", os.cpu_count() or 1, "of each system"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="tiny models, for tests")
    parser.add_argument("--results", type=Path, default=Path("build/benchmarks"), help="folder")
    options = parser.parse_args(argv)
    if options.steps < 2:
        parser.error(f"--steps: expected at least 2, got {options.steps}")

    logging.disable(logging.INFO)
    systems = {name: measurable(MODELS[name], options.systems) for name in options.models}
    if not any(systems.values()):
        parser.error("none of the systems can be measured")
    torch.set_num_threads(options.threads)
    document: dict[str, Any] = {
        "machine": machine() | versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {
            name: getattr(options, name)
            for name in ("beam", "source", "steps", "rounds", "once", "threads", "smoke")
        },
    }
    rates = floor.measure()
    cases: list[Case] = []
    results: list[dict[str, Any]] = []
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        model = shrunk(MODELS[name]) if options.smoke else MODELS[name]
        with tempfile.TemporaryDirectory(dir=options.results) as folder:
            if model.is_of_fairseq:
                write_checkpoint(model, Path(folder))
            for kind in {SYSTEMS[system][0] for system in systems[name]}:
                kind.prepare(model, Path(folder))
            for batch in options.batch:
                case = Case(model, batch, options.beam, options.source, options.steps)
                print(f"{name}, batch {batch}:", flush=True)
                result = measure(
                    case, systems[name], Path(folder), options.rounds, options.once, options.threads
                )
                cases.append(case)
                results.append(result)
                rates = rates.best(floor.measure())
                document["rates"] = asdict(rates)
                document["cases"] = [
                    {"settings": case.settings(), "floor": floor.of(case, rates), "systems": result}
                    for case, result in zip(cases, results, strict=True)
                ]
                # After each case: an interruption loses no more than one.
                text = json.dumps(document, indent=1) + "\n"
                (options.results / "results.json").write_text(text, encoding="utf-8")
    table = report.markdown(document)
    (options.results / "results.md").write_text(table, encoding="utf-8")
    print("\n" + table)
    written = [options.results / "results.json", options.results / "results.md"]
    print(
        "\n".join(f"wrote {path}" for path in (*written, *report.draw(document, options.results)))
    )


def measurable(model: Model, systems: Sequence[str]) -> list[str]:
    """Returns the systems that can be measured with a model; prints why others cannot."""
    reasons = {name: SYSTEMS[name][0].unsupported(model) for name in systems}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"{model.name} without {name}: {reason}")
    return [name for name, reason in reasons.items() if reason is None]


def versions() -> dict[str, str]:
    """Of the other systems that are installed."""
    found = {}
    for name in ("transformers", "ctranslate2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
