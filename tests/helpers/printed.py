"""What fairseq's command lines print, and where they print every sentence of a data set."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import pytest

NUMBER = re.compile(r"-?\d+\.(\d+)")

# A set-up, its checkpoint, and what its command line needs besides.
EVERY_SENTENCE = [
    ("translation", "transformer", ""),
    ("joint", "bart", ""),
    ("mbart", "mbart", ""),
    ("multi", "multi", "-s en -t de"),
    ("lm", "lm", "--sample-break-mode eos"),
]


def assert_same_lines(stock: Sequence[str], ours: Sequence[str], command: Sequence[str]) -> None:
    """Asserts equal text, and numbers that agree to the last digit printed or to 1e-5 of them."""
    reproduce = shlex.join(command)
    assert len(stock) == len(ours), reproduce
    for expected, got in zip(stock, ours, strict=True):
        assert NUMBER.sub("#", expected) == NUMBER.sub("#", got), reproduce
        numbers = zip(NUMBER.finditer(expected), NUMBER.finditer(got), strict=True)
        for one, other in numbers:
            last_digit = 10.0 ** -len(one[1]) if len(one[1]) <= 6 else 0.0
            assert float(other[0]) == pytest.approx(
                float(one[0]), rel=1e-5, abs=1.01 * last_digit
            ), f"{expected}\n{got}\n{reproduce}"


def by_sentence(lines: Sequence[str]) -> list[str]:
    """The lines that belong to a sentence, in order of the sentences."""
    numbered = [(re.match(r"[A-Z]-(\d+)", line), line) for line in lines]
    return [line for _, line in sorted((int(m[1]), line) for m, line in numbered if m)]


def printed(lines: Sequence[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.match(r"H-(\d+)", line))]
