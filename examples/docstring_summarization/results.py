"""Write one document of what run.sh gave for several model families and kinds of search."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from common.lines import read_lines
from common.report import read_json

FAMILIES = ("transformer", "bart", "lm")
SEARCHES = ("beam", "diverse", "greedy")
SAMPLES = 6

TITLE = """\
# Three model families, three kinds of search

The whole test split, generated in float32 from one checkpoint per family with stock fairseq and
with both plans of EL-attention. Written by `results.py` from what `run.sh --profile long` gave, one
`--family` after the other. Models of this size, after half an hour on one thread, write plausible
first lines: what counts is that all three kinds of attention write the same. Other work ran beside
it: speed is measured elsewhere ([`scripts/benchmarks`](../../scripts/benchmarks))."""

COLUMNS = """\
ROUGE-1 / 2 / L: mean F1 x 100. Differing: hypotheses with any other token than stock's, with
`expanded-query` and with `shared-projection`. Gap: the largest relative difference of a
hypothesis's log-probability from stock's, rounding included. State: KiB per sentence that decoding
keeps at the step where it is most, [as in the report](README.md#the-table)."""


class Training(NamedTuple):
    """How a model was trained.

    Attributes:
        parameters: their number.
        updates: their number.
        perplexity: per piece of the validation split; a language model's is of documents too.
        minutes: the minutes of processor time in user mode.
    """

    parameters: int
    updates: int
    perplexity: float
    minutes: float


def read_training(log: str) -> Training:
    """Read the log of the step `train`.

    Raises:
        ValueError: if the training has not ended.
    """

    def last(pattern: str) -> str:
        found = re.findall(pattern, log)
        if not found:
            raise ValueError(f"log of the training: no line with {pattern!r}")
        return str(found[-1]).replace(",", "")

    return Training(
        int(last(r"num\. shared model params: ([\d,]+)")),
        int(last(r"valid on 'valid' subset .* num_updates (\d+)")),
        float(last(r"valid on 'valid' subset .*? ppl ([\d.]+)")),
        float(last(r"training took ([\d.]+) s of processor time")) / 60,
    )


class Run(NamedTuple):
    """What a family gave with a kind of search; the first system is stock fairseq.

    Attributes:
        family: the family of models.
        options: the options of fairseq-generate that chose the search.
        record: report.json.
        texts: the hypotheses of each system, by its name in the report.
    """

    family: str
    options: str
    record: dict[str, Any]
    texts: dict[str, list[str]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was measured of each system."""
        return self.record["rows"]


def read_run(family: str, folder: Path) -> Run:
    """Read the folder of a family and a kind of search."""
    record = read_json(folder / "report" / "report.json")
    command = read_json(folder / "stock" / "run.json")["command"]
    names = ("stock", "expanded-query", "shared-projection")
    texts = [read_lines(folder / "report" / f"{name}.txt") for name in names]
    systems = [row["system"] for row in record["rows"]]
    return Run(
        family,
        " ".join(command[command.index("--beam") :]),
        record,
        dict(zip(systems, texts, strict=True)),
    )


def table(header: str, rows: list[list[str]], words: int) -> str:
    """A Markdown table; the first `words` columns hold words, the others figures."""
    names = header.split("|")
    rule = ["---"] * words + ["---:"] * (len(names) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in [names, rule, *rows])


def quality(runs: list[Run]) -> str:
    """Quality, differences and state of all systems, a line for each run."""
    rows = []
    for run in runs:
        scores = [
            " / ".join(f"{value:.2f}" for value in row["scores"].values()) for row in run.rows
        ]
        states = [f"{row['state_bytes_per_sentence'] / 2**10:,.0f}" for row in run.rows]
        counts = [str(row["differing"]) for row in run.rows[1:]]
        gap = max(row["largest_score_gap"] for row in run.rows)
        rows.append(
            [run.family, f"`{run.options}`", *scores, ", ".join(counts), f"{gap:.0e}", *states]
        )
    systems = "stock|`expanded-query`|`shared-projection`"
    header = f"family|search|ROUGE, {systems}|differing|gap|state, {systems}"
    return table(header, rows, 2)


def differences(run: Run) -> Iterator[str]:
    """The hypotheses of a run that are not stock fairseq's, with the gaps that explain them."""
    stock = run.rows[0]["system"]
    for system, items in run.record["differences"].items():
        for item in items:
            number = item["sentence"]
            kind = "a tie" if item["tie"] else "NOT A TIE"
            yield (
                f"- {run.family}, `{run.options}`, {system}, sentence {number} ({kind}): relative "
                f"gap of the scores {item['gap']:.1e}, of the first tokens that differ "
                f"{item['token_gap']:.4f} bits. “{run.texts[stock][number]}” / "
                f"“{run.texts[system][number]}”"
            )


def samples(runs: list[Run], sources: list[str], references: list[str]) -> str:
    """Evenly spaced sentences: document, reference, each family's summary by the first search."""
    chosen = [run for run in runs if run.options == runs[0].options]
    blocks = []
    for number in range(len(sources) // (2 * SAMPLES), len(sources), len(sources) // SAMPLES):
        lines = [
            f"document:    {textwrap.shorten(sources[number], 200, placeholder=' ...')}",
            f"reference:   {references[number]}",
        ]
        for run in chosen:
            text = next(iter(run.texts.values()))[number]
            lines.append(f"{run.family + ':':<12} {text}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks[:SAMPLES])


def document(work: Path) -> str:
    """The document of a folder that run.sh wrote.

    Raises:
        ValueError: if no family has been through all steps.
    """
    folders = [
        work / family / search
        for family in FAMILIES
        for search in SEARCHES
        if (work / family / search / "report" / "report.json").exists()
    ]
    if not folders:
        raise ValueError(f"{work}: expected FAMILY/SEARCH/report/report.json, found none")
    runs = [read_run(folder.parent.name, folder) for folder in folders]
    families = list(dict.fromkeys(run.family for run in runs))
    trainings = [
        [family, f"{t.parameters:,}", f"{t.updates:,}", f"{t.minutes:.1f}", f"{t.perplexity:.1f}"]
        for family in families
        for t in [read_training((work / family / "train" / "log").read_text(encoding="utf-8"))]
    ]
    data = work / "data"
    sources, references = read_lines(data / "test.source"), read_lines(data / "test.target")
    pairs = read_json(data / "provenance.json")["pairs"]
    explained = [line for run in runs for line in differences(run)]
    total = sum(len(run.rows) - 1 for run in runs) * len(sources)
    machine = "; ".join(f"{name}: {value}" for name, value in runs[0].record["machine"].items())
    return "\n\n".join(
        [
            TITLE,
            f"{date.today().isoformat()}; {machine}. {pairs['train']:,} pairs for training, "
            f"{pairs['valid']:,} for validation, {pairs['test']:,} for the test.",
            table(
                "family|parameters|updates|processor time, minutes|perplexity", trainings, words=1
            ),
            quality(runs),
            COLUMNS,
            f"Of {total:,} hypotheses {len(explained)} differ from stock fairseq's"
            + (":" if explained else "."),
            *(["\n".join(explained)] if explained else []),
            "## Some of the summaries",
            f"`{runs[0].options}`, stock fairseq:",
            f"```\n{samples(runs, sources, references)}\n```",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder that run.sh wrote")
    parser.add_argument("output", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    args.output.write_text(document(args.work) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
