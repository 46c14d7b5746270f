"""CNN/DailyMail: stories with highlights -> {train,valid,test}.{source,target}.

The folder DATA holds one of
  {train,val,test}.{source,target}                  prepared already: copied after verification
  cnn/stories, dailymail/stories and URL lists      the stories unpacked
  cnn_stories.tgz, dailymail_stories.tgz, URL lists the archives
where the URL lists are all_{train,val,test}.txt: a story's file is named after its URL's SHA-1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from common.acquire import Policy, Published, obtain
from common.documents import documents, listed_pairs
from common.lines import read_lines
from common.pairs import Pair, prepared_pairs
from common.prepare import run

# 114 stories of the training list have no text; the other lists are complete.
PAIRS = {"train": 287_113, "valid": 13_368, "test": 11_490}

ORIGIN = """\
Stories: collected by Hermann et al. (2015), archived by Kyunghyun Cho
(https://cs.nyu.edu/~kcho/DMQA). The texts belong to CNN and to the Daily Mail; the script that
collects them is under Apache-2.0.
Lists: See et al. (2017), https://github.com/abisee/cnn-dailymail."""

_ARCHIVES = (
    "https://huggingface.co/datasets/cnn_dailymail/resolve/"
    "11343c3752184397d56efc19a8a7cceb68089318/data/"
)
_LISTS = "https://raw.githubusercontent.com/abisee/cnn-dailymail/master/url_lists/"

# Digests: of the packaged data set in https://github.com/huggingface/datasets.
LISTS = {
    split: Published(name, _LISTS + name, sha256)
    for split, name, sha256 in [
        (
            "train",
            "all_train.txt",
            "a5cee49f3a6c862c26ce29308236d2a99625ab6c86a43be22d5206b2790d8029",
        ),
        (
            "valid",
            "all_val.txt",
            "81887e982b045083409c6ee838aede8ff4b97291605bcfb21bffc456a16991db",
        ),
        (
            "test",
            "all_test.txt",
            "c4f5efb5ec2126430a5c156efbd13d0e9c4cb490169e552c38b4a51981a009bd",
        ),
    ]
}
STORIES = {
    publisher: Published(f"{publisher}_stories.tgz", f"{_ARCHIVES}{publisher}_stories.tgz", sha256)
    for publisher, sha256 in {
        "cnn": "e8fbc0027e54e0a916abd9c969eb35f708ed1467d7ef4e3b17a56739d65cb200",
        "dailymail": "ad69010002210b7c406718248ee66e65868b9f6820f163aa966369878d14147e",
    }.items()
}

_SENTENCE_ENDS = (".", "!", "?", "'", "`", '"', "\u2019", "\u201d", ")")


def parse_story(text: str) -> Pair:
    """The article and its highlights; a line without an end of sentence gets a period."""
    article: list[str] = []
    highlights: list[str] = []
    lines = article
    for line in filter(None, map(str.strip, text.split("\n"))):
        if line == "@highlight":
            lines = highlights
        else:
            lines.append(line if line.endswith(_SENTENCE_ENDS) else line + ".")
    return Pair(" ".join(article), " ".join(highlights))


def stories(folder: Path) -> Iterator[tuple[str, str]]:
    """(file name, text) of every story, unpacked or not, in a stable order."""
    for publisher, archive in STORIES.items():
        yield from documents(folder / publisher / "stories", folder / archive.name, ".story")


def pairs(folder: Path, policy: Policy) -> Iterator[tuple[str, Pair]]:
    """(split, pair) of every listed story.

    Raises:
        DataError: if a file or a listed story is not there, or is not what was published.
    """
    prepared = prepared_pairs(folder)
    if prepared is not None:
        yield from prepared
        return
    packed = [
        archive
        for publisher, archive in STORIES.items()
        if not (folder / publisher / "stories").is_dir()
    ]
    obtain(folder, [*LISTS.values(), *packed], ORIGIN, policy)
    split_of = {
        f"{hashlib.sha1(url.strip().encode()).hexdigest()}.story": split
        for split, urls in LISTS.items()
        for url in read_lines(folder / urls.name)
    }
    yield from listed_pairs(stories(folder), split_of, parse_story)


if __name__ == "__main__":
    run(__doc__, pairs, PAIRS)
