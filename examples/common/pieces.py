"""From text to the pieces that a model sees, and back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from common.lines import read_lines, write_lines


class ByteLevelBPE(Protocol):
    """fairseq's GPT-2 byte-level BPE; its pieces are integers."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...


def load_bpe(folder: Path) -> ByteLevelBPE:
    """The BPE whose encoder.json and vocab.bpe lie in `folder`."""
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    return get_encoder(str(folder / "encoder.json"), str(folder / "vocab.bpe"))


def decoder(pieces: str) -> Callable[[str], str]:
    """How the tokens of an H line become text, which may hold line ends.

    Args:
        pieces: "sentencepiece", or "gpt2=FOLDER" with encoder.json and vocab.bpe in it.

    Raises:
        ValueError: if it is neither.
    """
    kind, _, folder = pieces.partition("=")
    if pieces == "sentencepiece":
        return lambda tokens: tokens.replace(" ", "").replace("\u2581", " ").strip()
    if kind == "gpt2" and folder:
        bpe = load_bpe(Path(folder))
        # Symbols of the dictionary that are no pieces, such as <unk>, have no text.
        return lambda tokens: bpe.decode([int(t) for t in tokens.split() if t.isdecimal()])
    raise ValueError(f'pieces: expected "sentencepiece" or "gpt2=FOLDER", got {pieces!r}')


def encode_line(bpe: ByteLevelBPE, text: str, longest: int, begin: str = "", end: str = "") -> str:
    """The first `longest` pieces of `text`, between the symbol `begin` and the text `end`."""
    pieces = bpe.encode(text)[:longest] + bpe.encode(end)
    return " ".join([*begin.split(), *map(str, pieces)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode text with a GPT-2 byte-level BPE.")
    parser.add_argument("bpe", type=Path, help="folder with encoder.json and vocab.bpe")
    parser.add_argument("output", type=Path, help="folder to write, files named as the inputs")
    parser.add_argument("inputs", type=Path, nargs="+", help="text, one a line")
    parser.add_argument("--longest", type=int, required=True, help="most pieces kept of a line")
    parser.add_argument("--begin", default="", help="a symbol put before each line")
    parser.add_argument("--end", default="", help="text put after what is kept of each line")
    args = parser.parse_args()

    bpe = load_bpe(args.bpe)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in args.inputs:
        lines = (
            encode_line(bpe, line, args.longest, args.begin, args.end) for line in read_lines(path)
        )
        write_lines(args.output / path.name, lines)


if __name__ == "__main__":
    main()
