"""What fairseq-generate printed, and where two runs differ."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Scores are sums of float32 numbers: within this relative gap either hypothesis may win.
TIE = 1e-5

_TRANSLATED = re.compile(r"Translated ([\d,]+) sentences .*\(([\d,.]+) sentences/s")


@dataclass(frozen=True)
class Hypothesis:
    """The best hypothesis for a sentence.

    Attributes:
        tokens: subwords separated by spaces, as on the H line.
        score: length-normalised log-probability in base 2.
    """

    tokens: str
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


def parse_output(text: str) -> Output:
    """Read the output of fairseq-generate.

    Only H lines are read: the text on D lines can hold line ends of its own.

    Raises:
        ValueError: if it is incomplete.
    """
    summary = _TRANSLATED.search(text)
    if summary is None:
        raise ValueError('no "Translated ... sentences" line: fairseq-generate did not finish')
    found = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", text, re.M)
    hypotheses = {
        int(sentence): Hypothesis(tokens, float(score)) for sentence, score, tokens in found
    }
    expected = int(summary[1].replace(",", ""))
    if len(hypotheses) != expected:
        raise ValueError(f"expected H lines for {expected} sentences, found {len(hypotheses)}")
    return Output(dict(sorted(hypotheses.items())), float(summary[2].replace(",", "")))


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
