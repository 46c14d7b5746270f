"""Documents that are published as a file each, of which lists say what belongs to which split."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from common.acquire import DataError
from common.pairs import Pair


def documents(unpacked: Path, archive: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """(file name, text) of every document, in a stable order.

    Args:
        unpacked: folder of the documents; if there is none they are read from the archive.
        archive: a tar file that has them in any folder.
        suffix: the suffix of their names; other files are left out.
    """
    if unpacked.is_dir():
        for path in sorted(unpacked.glob(f"*{suffix}")):
            yield path.name, path.read_text(encoding="utf-8")
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(suffix):
                yield Path(member.name).name, file.read().decode("utf-8")


def listed_pairs(
    found: Iterable[tuple[str, str]], split_of: Mapping[str, str], parse: Callable[[str], Pair]
) -> Iterator[tuple[str, Pair]]:
    """(split, pair) of every document that is on a list.

    Args:
        found: (file name, text) of documents.
        split_of: file name -> split of those that are listed.
        parse: text -> document and summary.

    Raises:
        DataError: if a listed document was not found.
    """
    missing = set(split_of)
    for name, text in found:
        if name in split_of:
            missing.discard(name)
            yield split_of[name], parse(text)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(split_of)} listed documents are not there, the first is "
            f"{min(missing)}"
        )
