"""Published files: found in a folder or downloaded when asked for, and verified."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class DataError(ValueError):
    """Files are missing, or they are not what was published."""


@dataclass(frozen=True)
class Published:
    """A file as its publishers provide it.

    Attributes:
        name: what it is called in the folder.
        url: where it can be downloaded.
        sha256: hexadecimal digest, where it is known.
    """

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class Policy:
    """What is allowed.

    Attributes:
        download: missing files may be downloaded.
        unverified: what differs from the published data is reported, not refused.
    """

    download: bool = False
    unverified: bool = False

    def refuse(self, problem: str) -> None:
        """Raises `DataError`, or reports the problem if unverified data are allowed."""
        if not self.unverified:
            raise DataError(f"{problem}; --unverified accepts it as it is")
        print(f"warning: {problem}", file=sys.stderr)


def obtain(folder: Path, files: Sequence[Published], origin: str, policy: Policy) -> None:
    """Make sure that all `files` lie in `folder` and are what was published.

    Args:
        folder: made if there is something to download.
        files: what is needed.
        origin: where they come from and under which licence, for the message.
        policy: what is allowed.

    Raises:
        DataError: if a file is missing or has another checksum than the published one.
        OSError: if a download fails.
    """
    missing = [file for file in files if not (folder / file.name).exists()]
    if missing and not policy.download:
        urls = "".join(f"\n  {file.name}  from  {file.url}" for file in missing)
        raise DataError(
            f"{folder} lacks{urls}\n{origin}\nPut copies there, or run again with --download"
        )
    for file in missing:
        download(file.url, folder / file.name)
    for file in files:
        if file.sha256 is not None:
            digest = sha256(folder / file.name)
            if digest != file.sha256:
                policy.refuse(f"{folder / file.name}: sha256 is {digest}, expected {file.sha256}")


def download(url: str, path: Path) -> None:
    """Write what is at `url` to `path`, which exists only when it is complete."""
    print(f"downloading {url}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with urllib.request.urlopen(url) as response, partial.open("wb") as file:
        shutil.copyfileobj(response, file)
        expected = response.headers.get("Content-Length")
        if expected is not None and file.tell() != int(expected):
            raise OSError(f"{url}: {file.tell()} of {expected} bytes came")
    partial.rename(path)


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_counts(found: Mapping[str, int], expected: Mapping[str, int], policy: Policy) -> None:
    """Refuse data whose number of pairs in a split is not the published one."""
    if found != expected:
        policy.refuse(f"pairs: found {dict(found)}, expected {dict(expected)}")


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """Adds --download and --unverified."""
    parser.add_argument("--download", action="store_true", help="download what is missing")
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="accept other checksums and counts than the published ones (a subset, a fixture)",
    )


def policy_of(args: argparse.Namespace) -> Policy:
    """The policy that the options of `add_policy_options` ask for."""
    return Policy(download=args.download, unverified=args.unverified)
