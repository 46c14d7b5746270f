"""Learn a SentencePiece model on the training split and encode all splits with it."""

from __future__ import annotations

import argparse
from pathlib import Path

import sentencepiece

from common.pairs import SIDES, SPLITS


def learn(
    data: Path, prefix: Path, vocabulary: int, symbols: list[str]
) -> sentencepiece.SentencePieceProcessor:
    """Write `prefix`.model, a BPE model with `vocabulary` pieces for sources and targets.

    Each of `symbols` is always a piece of its own.
    """
    sentencepiece.SentencePieceTrainer.train(
        input=[str(data / "train.source"), str(data / "train.target")],
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=vocabulary,
        user_defined_symbols=symbols,
        max_sentence_length=16384,
        minloglevel=1,
    )
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def encode(
    model: sentencepiece.SentencePieceProcessor, source: Path, target: Path, longest: int
) -> None:
    """Write the pieces of each line of `source` to `target`, at most `longest` in a line."""
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for line in lines:
            pieces = model.encode(line.rstrip("\n"), out_type=str)
            out.write(" ".join(pieces[:longest]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with {train,valid,test}.{source,target}")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--vocabulary", type=int, required=True, help="number of pieces")
    parser.add_argument("--longest", type=int, required=True, help="most pieces in a line")
    parser.add_argument("--symbols", nargs="*", default=[], help="pieces that are never split")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    model = learn(args.data, args.output / "subword", args.vocabulary, args.symbols)
    for split in SPLITS:
        for side in SIDES:
            name = f"{split}.{side}"
            encode(model, args.data / name, args.output / name, args.longest)


if __name__ == "__main__":
    main()
