"""A tiny random BART as Transformers saves it, a dictionary of fairseq for it, and random texts."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from common.lines import write_lines
from common.random_bart import random_bart

WORDS = [f"w{number}" for number in range(60)]
SPECIAL = 4  # <s>, <pad>, </s> and <unk>, which fairseq's dictionaries begin with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("number", type=int, help="of texts")
    args = parser.parse_args()
    model = random_bart(SPECIAL + len(WORDS), positions=64)
    model.save_pretrained(args.output)
    write_lines(args.output / "dict.txt", (f"{word} 1" for word in WORDS))
    draw = random.Random(1)
    texts = (" ".join(draw.choices(WORDS, k=draw.randint(2, 30))) for _ in range(args.number))
    write_lines(args.output / "texts", texts)


if __name__ == "__main__":
    main()
