"""A released BART model: model.pt and dict.txt of its archive, and its byte-level BPE."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path

from common.acquire import (
    DataError,
    Policy,
    Published,
    add_policy_options,
    obtain,
    policy_of,
)

MODELS = ("bart.large.cnn", "bart.large.xsum")

ORIGIN = """\
BART: Lewis et al. (2019), https://github.com/facebookresearch/fairseq/tree/main/examples/bart,
MIT licence."""

_HOST = "https://dl.fbaipublicfiles.com/fairseq/"
BPE = [Published(name, f"{_HOST}gpt2_bpe/{name}") for name in ("encoder.json", "vocab.bpe")]
BPE_PIECES = 50_257

# What is used of the archive.
MEMBERS = ("model.pt", "dict.txt")


def obtain_model(folder: Path, name: str, policy: Policy) -> None:
    """Make sure that `folder` holds MEMBERS and the BPE of the released model called `name`.

    Raises:
        DataError: if a file is missing, or is not what was published.
        OSError: if a download fails.
    """
    archive = Published(f"{name}.tar.gz", f"{_HOST}models/{name}.tar.gz")
    unpacked = all((folder / member).exists() for member in MEMBERS)
    obtain(folder, [*BPE, *([] if unpacked else [archive])], ORIGIN, policy)
    if not unpacked:
        with tarfile.open(folder / archive.name) as tar:
            for member in MEMBERS:
                extract(tar, f"{name}/{member}", folder / member)
    pieces = len(json.loads((folder / "encoder.json").read_text(encoding="utf-8")))
    if pieces != BPE_PIECES:
        policy.refuse(f"{folder / 'encoder.json'}: {pieces} pieces, expected {BPE_PIECES}")


def extract(tar: tarfile.TarFile, name: str, path: Path) -> None:
    """Write one member of an archive to `path`, which exists only when it is complete.

    Raises:
        DataError: if there is no such file in the archive.
    """
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise DataError(f"{tar.name!s}: no file {name}")
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as output:
        while block := file.read(1 << 20):
            output.write(block)
    partial.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("folder", type=Path, help="where the files are, or are to be")
    add_policy_options(parser)
    args = parser.parse_args()
    try:
        obtain_model(args.folder, args.name, policy_of(args))
    except (DataError, OSError, json.JSONDecodeError, tarfile.TarError) as error:
        sys.exit(f"{args.name}: {error}")


if __name__ == "__main__":
    main()
