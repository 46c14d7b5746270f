"""Compare runs of fairseq-generate: speed, memory, quality and differing hypotheses.

Reads a folder for each system with `stdout` and `run.json` (run_measured.py) and `state.json`
(measure_state.py). The first system is the baseline that the others are compared with.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.generated import Output, differences, parse_output, relative_gap
from common.lines import one_line, read_lines, write_lines
from common.measurements import machine
from common.pieces import decoder
from common.scores import METRICS, Scores, score

EXAMPLES = 5
UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    system: str
    samples_per_second: float
    state_bytes_per_sentence: float
    peak_rss_bytes: int
    scores: Scores
    differing: int
    largest_score_gap: float


def first_sentences(text: str, count: int) -> str:
    """The first `count` sentences of `text`: up to ".", "!" or "?" and white space."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:count])


def texts_of(
    output: Output,
    decode: Callable[[str], str],
    prompts: Sequence[str] | None = None,
    sentences: int | None = None,
) -> list[str]:
    """The hypotheses as text, by sentence number and each on one line.

    Args:
        output: what was generated.
        decode: tokens to text.
        prompts: tokens that each hypothesis begins with and that are no part of its text; those
            that are not in the dictionary are "<unk>" in the hypothesis.
        sentences: how many sentences to keep of each text.

    Raises:
        ValueError: if a hypothesis does not begin with its prompt.
    """
    texts = []
    for sentence, hypothesis in output.hypotheses.items():
        tokens = hypothesis.tokens.split(" ")
        if prompts is not None:
            prompt = prompts[sentence].split(" ")
            begin, tokens = tokens[: len(prompt)], tokens[len(prompt) :]
            known = (word in (given, UNKNOWN) for word, given in zip(begin, prompt, strict=False))
            if len(begin) < len(prompt) or not all(known):
                raise ValueError(f"hypothesis {sentence} does not begin with its prompt")
        text = decode(" ".join(tokens))
        texts.append(one_line(text if sentences is None else first_sentences(text, sentences)))
    return texts


def make_row(system: str, folder: Path, output: Output, baseline: Output, scores: Scores) -> Row:
    """The row of a system whose measurements lie in `folder`."""
    return Row(
        system=system,
        samples_per_second=output.samples_per_second,
        state_bytes_per_sentence=read_json(folder / "state.json")["state_bytes_per_sentence"],
        peak_rss_bytes=read_json(folder / "run.json")["peak_rss_bytes"],
        scores=scores,
        differing=len(differences(baseline, output)),
        largest_score_gap=max(
            relative_gap(baseline.hypotheses[sentence], hypothesis)
            for sentence, hypothesis in output.hypotheses.items()
        ),
    )


def read_output(folder: Path) -> Output:
    """What fairseq-generate printed into a folder."""
    # Its log is on standard output or error, depending on who configured logging first.
    return parse_output(
        "\n".join((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    names = " / ".join(rows[0].scores)
    lines = [
        "| attention | samples/s | state per sentence, KiB | peak memory, MiB "
        f"| {names} | differing hypotheses |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        scores = " / ".join(f"{value:.2f}" for value in row.scores.values())
        lines.append(
            f"| {row.system} | {row.samples_per_second:.2f} "
            f"| {row.state_bytes_per_sentence / 2**10:,.1f} | {row.peak_rss_bytes / 2**20:,.0f} "
            f"| {scores} | {row.differing} |"
        )
    return "\n".join(lines)


def examples(texts: list[str], sources: list[str], references: list[str]) -> str:
    """A few sentences, evenly spaced: start of the source, reference, hypothesis."""
    chosen = range(len(texts))[:: max(1, len(texts) // EXAMPLES)][:EXAMPLES]
    return "\n\n".join(
        f"source:     {textwrap.shorten(sources[sentence], 200, placeholder=' ...')}\n"
        f"reference:  {references[sentence]}\n"
        f"hypothesis: {texts[sentence]}"
        for sentence in chosen
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument(
        "systems", nargs="+", metavar="NAME=FOLDER", help="name and folder; the baseline first"
    )
    parser.add_argument("--title", required=True)
    parser.add_argument("--sources", type=Path, required=True, help="text, one a line")
    parser.add_argument("--references", type=Path, required=True, help="text, one a line")
    parser.add_argument("--pieces", required=True, help="sentencepiece, or gpt2=FOLDER of the BPE")
    parser.add_argument("--prompts", type=Path, help="pieces that begin each hypothesis, no text")
    parser.add_argument("--sentences", type=int, help="keep this many of each hypothesis")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=["rouge"])
    return parser.parse_args()


def main() -> int:
    """Writes report.md, report.json and the text of each system's hypotheses.

    Returns 1 if a hypothesis differs and no tie explains it.
    """
    args = parse_arguments()
    folders = {name: Path(path) for name, _, path in (item.partition("=") for item in args.systems)}
    outputs = {name: read_output(folder) for name, folder in folders.items()}
    baseline_name, baseline = next(iter(outputs.items()))
    sources, references = read_lines(args.sources), read_lines(args.references)
    if baseline.hypotheses.keys() != set(range(len(sources))):
        raise ValueError(
            f"{baseline_name}: {len(baseline.hypotheses)} hypotheses for {len(sources)} sources"
        )
    decode = decoder(args.pieces)
    prompts = args.prompts and read_lines(args.prompts)
    texts = {
        name: texts_of(output, decode, prompts, args.sentences) for name, output in outputs.items()
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, lines in texts.items():
        write_lines(args.output / f"{folders[name].name}.txt", lines)
    rows = [
        make_row(
            name, folders[name], output, baseline, score(texts[name], references, args.metrics)
        )
        for name, output in outputs.items()
    ]
    found = {name: differences(baseline, output) for name, output in outputs.items()}
    unexplained = sum(not item.is_tie for items in found.values() for item in items)
    batch = read_json(folders[baseline_name] / "state.json")
    environment = machine()

    sections = [
        f"# {args.title}: stock attention and EL-attention",
        table(rows),
        f"Baseline: {baseline_name}. {len(baseline.hypotheses)} test sentences. samples/s: "
        "fairseq-generate's own figure, generation alone. State: peak over the decoder steps of "
        f"the batch with the longest sources ({batch['sentences']} sentences of "
        f"{batch['source_length']} tokens). Peak memory: of the whole process on the host, Python "
        "and torch included. Scores: x 100; ROUGE is the mean F1. Largest relative difference of "
        "a hypothesis's log-probability from the baseline's: "
        f"{max(row.largest_score_gap for row in rows):.1e}.",
        "; ".join(f"{name}: {value}" for name, value in environment.items()),
        f"## Examples\n\n```\n{examples(texts[baseline_name], sources, references)}\n```",
    ]
    for name, items in found.items():
        for item in items:
            kind = "a tie" if item.is_tie else "NOT A TIE"
            sections.append(
                f"Sentence {item.sentence} differs ({kind}): relative gap {item.gap:.1e}; of the "
                f"first tokens that differ {item.token_gap:.4f} bits\n"
                f"    {item.baseline.score:.7f} {baseline_name}: "
                f"{texts[baseline_name][item.sentence]}\n"
                f"    {item.other.score:.7f} {name}: {texts[name][item.sentence]}"
            )
    (args.output / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    record = {
        "rows": [asdict(row) for row in rows],
        "differences": {
            name: [
                asdict(item) | {"gap": item.gap, "token_gap": item.token_gap, "tie": item.is_tie}
                for item in items
            ]
            for name, items in found.items()
        },
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
