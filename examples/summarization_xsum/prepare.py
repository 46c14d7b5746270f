"""XSum: BBC articles with their first sentence -> {train,valid,test}.{source,target}.

The folder DATA holds one of
  {train,val,test}.{source,target}                prepared already: copied after verification
  bbc-summary-data and the split                  the articles unpacked
  XSUM-EMNLP18-Summary-Data-Original.tar.gz and the split
where the split is XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from common.acquire import DataError, Policy, Published, obtain
from common.documents import documents, listed_pairs
from common.pairs import Pair, prepared_pairs
from common.prepare import run

# The split lists 204,045, 11,332 and 11,334 articles; some have no text left.
PAIRS = {"train": 204_017, "valid": 11_327, "test": 11_333}

ORIGIN = """\
Articles: Narayan et al. (2018), https://github.com/EdinburghNLP/XSum (MIT licence for what is in
that repository); the texts belong to the BBC."""

ARTICLES = Published(
    "XSUM-EMNLP18-Summary-Data-Original.tar.gz",
    "http://bollin.inf.ed.ac.uk/public/direct/XSUM-EMNLP18-Summary-Data-Original.tar.gz",
    "10b48aa187fc9c904b30f76ca97e2da0de8d3a1238acc26acadef93e2001af90",
)
SPLIT = Published(
    "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json",
    "https://raw.githubusercontent.com/EdinburghNLP/XSum/master/XSum-Dataset/"
    "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json",
    "9c0c5d8f048a90bd68b19a34e4c30577ed270d3247b2119fa06a04ef46292068",
)
SPLIT_NAMES = {"train": "train", "valid": "validation", "test": "test"}
UNPACKED = "bbc-summary-data"

# Buttons and captions of the web page that the extraction left in the text.
_PAGE_FURNITURE = {
    "Share this with",
    "Email",
    "Facebook",
    "Messenger",
    "Twitter",
    "Pinterest",
    "WhatsApp",
    "Linkedin",
    "LinkedIn",
    "Copy this link",
    "These are external links and will open in a new window",
}


def parse_article(text: str) -> Pair:
    """The rest of the body, and the first sentence as its summary."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in map(str.strip, text.split("\n")):
        if line.startswith("[SN]") and line.endswith("[SN]"):
            lines = sections.setdefault(line.removeprefix("[SN]").removesuffix("[SN]"), [])
        elif line and line not in _PAGE_FURNITURE:
            lines.append(line)
    missing = {"FIRST-SENTENCE", "RESTBODY"} - sections.keys()
    if missing:
        raise DataError(f"no section {sorted(missing)} in an article that begins {text[:60]!r}")
    return Pair(" ".join(sections["RESTBODY"]), " ".join(sections["FIRST-SENTENCE"]))


def pairs(folder: Path, policy: Policy) -> Iterator[tuple[str, Pair]]:
    """(split, pair) of every article of the split.

    Raises:
        DataError: if a file or an article of the split is not there, is not what was published,
            or is not in the format.
    """
    prepared = prepared_pairs(folder)
    if prepared is not None:
        yield from prepared
        return
    packed = [] if (folder / UNPACKED).is_dir() else [ARTICLES]
    obtain(folder, [SPLIT, *packed], ORIGIN, policy)
    identifiers = json.loads((folder / SPLIT.name).read_text())
    split_of = {
        f"{identifier}.summary": split
        for split, name in SPLIT_NAMES.items()
        for identifier in identifiers[name]
    }
    found = documents(folder / UNPACKED, folder / ARTICLES.name, ".summary")
    yield from listed_pairs(found, split_of, parse_article)


if __name__ == "__main__":
    run(__doc__, pairs, PAIRS)
