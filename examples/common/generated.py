"""What fairseq-generate printed, and where two runs differ."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Scores are sums of float32 numbers: within this relative gap either hypothesis may win.
TIE = 1e-5
# The log-probabilities of tokens are printed with four decimals.
TOKEN_TIE = 1.5e-4

_TRANSLATED = re.compile(r"Translated ([\d,]+) sentences .*\(([\d,.]+) sentences/s")


@dataclass(frozen=True)
class Hypothesis:
    """The best hypothesis for a sentence.

    Attributes:
        tokens: subwords separated by spaces, as on the H line.
        score: length-normalised log-probability in base 2.
        token_scores: log-probability in base 2 of each token, then of the end of the sentence.
    """

    tokens: str
    score: float
    token_scores: tuple[float, ...]


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
    def gap(self) -> float:
        """Difference of the hypotheses' scores relative to the larger magnitude."""
        return relative_gap(self.baseline, self.other)

    @property
    def token_gap(self) -> float:
        """Difference of the log-probabilities of the first tokens that are not the same.

        Up to there both searches had the same prefix: these two tokens competed for the next
        place. In greedy search the higher one won, whatever came later.
        """
        pair = self.baseline, self.other
        tokens = [hypothesis.tokens.split(" ") for hypothesis in pair]
        same = (mine == theirs for mine, theirs in zip(*tokens, strict=False))
        first = next((n for n, equal in enumerate(same) if not equal), min(map(len, tokens)))
        mine, theirs = (hypothesis.token_scores[first] for hypothesis in pair)
        return abs(mine - theirs)

    @property
    def is_tie(self) -> bool:
        """Whether the hypotheses, or the tokens where they part, score the same up to rounding."""
        return self.gap <= TIE or self.token_gap <= TOKEN_TIE


def parse_output(text: str) -> Output:
    """Read the output of fairseq-generate.

    Only H and P lines are read: the text on D lines can hold line ends of its own.

    Raises:
        ValueError: if it is incomplete.
    """
    summary = _TRANSLATED.search(text)
    if summary is None:
        raise ValueError('no "Translated ... sentences" line: fairseq-generate did not finish')
    found = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", text, re.M)
    scores = dict(re.findall(r"^P-(\d+)\t(.*)$", text, re.M))
    hypotheses = {
        int(sentence): Hypothesis(tokens, float(score), tuple(map(float, scores[sentence].split())))
        for sentence, score, tokens in found
        if sentence in scores
    }
    expected = int(summary[1].replace(",", ""))
    if len(hypotheses) != expected:
        raise ValueError(
            f"expected H and P lines for {expected} sentences, found {len(hypotheses)}"
        )
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
