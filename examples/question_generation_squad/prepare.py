"""SQuAD 1.1: paragraphs with questions and answers -> {train,valid,test}.{source,target}.

A source is an answer, the symbol <sep> and the paragraph that holds it; the target is the question.
The folder DATA holds train-v1.1.json and dev-v1.1.json as published, and doclist-test.txt: titles
of articles, one a line, whose questions are taken from the training file for testing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

from common.acquire import DataError, Policy, Published, obtain
from common.lines import read_lines
from common.pairs import Pair
from common.prepare import run

PAIRS = {"train": 75_722, "valid": 10_570, "test": 11_877}

ORIGIN = """\
SQuAD 1.1: Rajpurkar et al. (2016), https://rajpurkar.github.io/SQuAD-explorer, CC BY-SA 4.0.
List of test articles: Du et al. (2017), https://github.com/xinyadu/nqg, CC BY-SA 4.0."""

_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
TRAIN = Published(
    "train-v1.1.json",
    _SQUAD + "train-v1.1.json",
    "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
)
DEV = Published(
    "dev-v1.1.json",
    _SQUAD + "dev-v1.1.json",
    "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
)
TEST_TITLES = Published(
    "doclist-test.txt", "https://raw.githubusercontent.com/xinyadu/nqg/master/data/doclist-test.txt"
)

SEPARATOR = "<sep>"


def read_squad(path: Path) -> list[dict[str, Any]]:
    """The articles of a file.

    Raises:
        DataError: if it is no SQuAD 1.1 file.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    version = content.get("version") if isinstance(content, dict) else None
    if version != "1.1":
        raise DataError(f"{path}: expected SQuAD version '1.1', got {version!r}")
    return content["data"]


def same_title(title: str) -> str:
    """One spelling of a title, which may be percent-encoded."""
    return normalize("NFC", unquote(title.strip()))


def questions(article: dict[str, Any]) -> Iterator[Pair]:
    """A pair for every question of an article, with the first of its answers.

    The answer comes first: what is cut from a long source is the end of the paragraph.
    """
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            answer = question["answers"][0]["text"]
            yield Pair(f"{answer} {SEPARATOR} {paragraph['context']}", question["question"])


def pairs(folder: Path, policy: Policy) -> Iterator[tuple[str, Pair]]:
    """(split, pair) of every question.

    Raises:
        DataError: if a file is not there, is not what was published or has another format, or if
            a listed article is not there.
    """
    obtain(folder, [TRAIN, DEV, TEST_TITLES], ORIGIN, policy)
    train = read_squad(folder / TRAIN.name)
    listed = {same_title(line) for line in read_lines(folder / TEST_TITLES.name) if line.strip()}
    missing = listed - {same_title(article["title"]) for article in train}
    if missing:
        raise DataError(f"{TEST_TITLES.name}: not in {TRAIN.name}: {sorted(missing)}")
    for article in train:
        split = "test" if same_title(article["title"]) in listed else "train"
        for pair in questions(article):
            yield split, pair
    for article in read_squad(folder / DEV.name):
        for pair in questions(article):
            yield "valid", pair


if __name__ == "__main__":
    run(__doc__, pairs, PAIRS)
