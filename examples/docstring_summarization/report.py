"""Compare runs of fairseq-generate: speed, memory, ROUGE and differing hypotheses.

Reads a folder for each system with `stdout` and `run.json` (run_measured.py) and `state.json`
(measure_state.py). The first system is the baseline that the others are compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import textwrap
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from rouge_score import rouge_scorer

# Scores are sums of float32 numbers: within this relative gap either hypothesis may win.
TIE = 1e-5

EXAMPLES = 5
ROUGE = ("rouge1", "rouge2", "rougeL")
_TRANSLATED = re.compile(r"Translated ([\d,]+) sentences .*\(([\d,.]+) sentences/s")


@dataclass(frozen=True)
class Hypothesis:
    """The best hypothesis for a sentence.

    Attributes:
        tokens: subwords, as on the H line.
        text: words, as on the D line.
        score: length-normalised log-probability in base 2.
    """

    tokens: str
    text: str
    score: float


@dataclass(frozen=True)
class Output:
    """What a run of fairseq-generate printed.

    Attributes:
        hypotheses: by sentence number.
        samples_per_second: by fairseq's own timer, which covers generation alone.
    """

    hypotheses: dict[int, Hypothesis]
    samples_per_second: float


@dataclass(frozen=True)
class Difference:
    """A sentence for which a system's hypothesis is not the baseline's."""

    sentence: int
    baseline: Hypothesis
    other: Hypothesis

    @property
    def is_tie(self) -> bool:
        """Whether the two score the same up to rounding."""
        return relative_gap(self.baseline, self.other) <= TIE


@dataclass(frozen=True)
class Row:
    """A row of the table. ROUGE is the mean F1 x 100."""

    system: str
    samples_per_second: float
    state_bytes_per_sentence: float
    peak_rss_bytes: int
    rouge1: float
    rouge2: float
    rougeL: float
    differing: int
    largest_score_gap: float


def parse_output(text: str) -> Output:
    """Read the output of fairseq-generate.

    Raises:
        ValueError: if it is incomplete.
    """
    summary = _TRANSLATED.search(text)
    if summary is None:
        raise ValueError('no "Translated ... sentences" line: fairseq-generate did not finish')
    fields: dict[str, dict[int, tuple[float, str]]] = {"H": {}, "D": {}}
    for sort, sentence, score, words in re.findall(r"^([HD])-(\d+)\t(\S+)\t(.*)$", text, re.M):
        fields[sort][int(sentence)] = float(score), words
    expected = int(summary[1].replace(",", ""))
    if not len(fields["H"]) == len(fields["D"]) == expected:
        found = f"{len(fields['H'])} H and {len(fields['D'])} D lines"
        raise ValueError(f"expected {expected} H and D lines, found {found}")
    hypotheses = {
        sentence: Hypothesis(tokens, fields["D"][sentence][1], score)
        for sentence, (score, tokens) in sorted(fields["H"].items())
    }
    return Output(hypotheses, float(summary[2].replace(",", "")))


def relative_gap(one: Hypothesis, other: Hypothesis) -> float:
    """Difference of the scores relative to the larger magnitude."""
    largest = max(abs(one.score), abs(other.score))
    return abs(one.score - other.score) / largest if largest else 0.0


def differences(baseline: Output, other: Output) -> list[Difference]:
    """The sentences whose hypotheses differ in a token.

    Raises:
        ValueError: if the two were not generated for the same sentences.
    """
    unmatched = baseline.hypotheses.keys() ^ other.hypotheses.keys()
    if unmatched:
        raise ValueError(f"sentences in one of two outputs only: {sorted(unmatched)[:10]}")
    return [
        Difference(sentence, hypothesis, other.hypotheses[sentence])
        for sentence, hypothesis in baseline.hypotheses.items()
        if hypothesis.tokens != other.hypotheses[sentence].tokens
    ]


def rouge(output: Output, references: list[str]) -> dict[str, float]:
    """Mean ROUGE F1 x 100, with stemming; `references` by sentence number."""
    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [
        scorer.score(references[sentence], hypothesis.text)
        for sentence, hypothesis in output.hypotheses.items()
    ]
    return {kind: 100 * fmean(score[kind].fmeasure for score in scores) for kind in ROUGE}


def make_row(
    system: str, folder: Path, output: Output, baseline: Output, references: list[str]
) -> Row:
    """The row of a system whose measurements lie in `folder`."""
    return Row(
        system=system,
        samples_per_second=output.samples_per_second,
        state_bytes_per_sentence=read_json(folder / "state.json")["state_bytes_per_sentence"],
        peak_rss_bytes=read_json(folder / "run.json")["peak_rss_bytes"],
        differing=len(differences(baseline, output)),
        largest_score_gap=max(
            relative_gap(baseline.hypotheses[sentence], hypothesis)
            for sentence, hypothesis in output.hypotheses.items()
        ),
        **rouge(output, references),
    )


def read(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    return json.loads(read(path))


def machine() -> dict[str, str]:
    """What the measurements were made on and with."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fairseq = metadata.packages_distributions()["fairseq"][0]
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", fairseq, "el-attention")},
    }


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| attention | samples/s | state per sentence, KiB | peak memory, MiB "
        "| ROUGE-1 / 2 / L | differing hypotheses |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.system} | {row.samples_per_second:.2f} "
            f"| {row.state_bytes_per_sentence / 2**10:,.1f} | {row.peak_rss_bytes / 2**20:,.0f} "
            f"| {row.rouge1:.2f} / {row.rouge2:.2f} / {row.rougeL:.2f} | {row.differing} |"
        )
    return "\n".join(lines)


def examples(output: Output, sources: list[str], references: list[str]) -> str:
    """A few sentences, evenly spaced: start of the document, reference, hypothesis."""
    sentences = list(output.hypotheses)
    chosen = sentences[:: max(1, len(sentences) // EXAMPLES)][:EXAMPLES]
    return "\n\n".join(
        f"document:   {textwrap.shorten(sources[sentence], 200, placeholder=' ...')}\n"
        f"reference:  {references[sentence]}\n"
        f"hypothesis: {output.hypotheses[sentence].text}"
        for sentence in chosen
    )


def main() -> int:
    """Command line; status 1 if a hypothesis differs and no tie explains it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write report.md and report.json to")
    parser.add_argument("data", type=Path, help="folder written by build_data.py")
    parser.add_argument(
        "systems", nargs="+", metavar="NAME=FOLDER", help="name and folder; the baseline first"
    )
    args = parser.parse_args()

    folders = {name: Path(path) for name, _, path in (item.partition("=") for item in args.systems)}
    outputs = {
        # fairseq's log is on standard output or error, depending on who configured logging first.
        name: parse_output("\n".join([read(folder / "stdout"), read(folder / "stderr")]))
        for name, folder in folders.items()
    }
    baseline_name, baseline = next(iter(outputs.items()))
    # Not splitlines(), which also splits at characters that are no end of line for fairseq.
    sources, references = (
        read(args.data / f"test.{side}").rstrip("\n").split("\n") for side in ("source", "target")
    )
    if baseline.hypotheses.keys() != set(range(len(sources))):
        raise ValueError(
            f"{baseline_name}: {len(baseline.hypotheses)} hypotheses for {len(sources)} documents"
        )
    rows = [
        make_row(name, folders[name], output, baseline, references)
        for name, output in outputs.items()
    ]
    found = {name: differences(baseline, output) for name, output in outputs.items()}
    unexplained = sum(not item.is_tie for items in found.values() for item in items)
    batch = read_json(folders[baseline_name] / "state.json")
    environment = machine()

    sections = [
        "# Docstring summarization: stock attention and EL-attention",
        table(rows),
        f"Baseline: {baseline_name}. {len(baseline.hypotheses)} test sentences. samples/s: "
        "fairseq-generate's own figure, generation alone. State: peak over the decoder steps of "
        f"the batch with the longest sources ({batch['sentences']} sentences of "
        f"{batch['source_length']} tokens). Peak memory: of the whole process, Python and torch "
        "included. ROUGE: mean F1 x 100. Largest relative difference of a score from the "
        f"baseline's: {max(row.largest_score_gap for row in rows):.1e}.",
        "; ".join(f"{name}: {value}" for name, value in environment.items()),
        f"## Examples\n\n```\n{examples(baseline, sources, references)}\n```",
    ]
    for name, items in found.items():
        for item in items:
            kind = "a tie" if item.is_tie else "NOT A TIE"
            sections.append(
                f"Sentence {item.sentence} differs ({kind}):\n"
                f"    {item.baseline.score:.7f} {baseline_name}: {item.baseline.text}\n"
                f"    {item.other.score:.7f} {name}: {item.other.text}"
            )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    record = {
        "rows": [asdict(row) for row in rows],
        "differences": {name: [asdict(item) for item in items] for name, items in found.items()},
        "machine": environment,
    }
    (args.output / "report.json").write_text(json.dumps(record, indent=1) + "\n")
    if unexplained:
        print(
            f"{unexplained} hypotheses differ from {baseline_name}'s without a tie in score;"
            f" see {args.output / 'report.md'}",
            file=sys.stderr,
        )
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
