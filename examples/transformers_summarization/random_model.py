"""A tiny random BART as Transformers saves it, a dictionary of fairseq for it, and random texts."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from common.lines import write_lines

WORDS = [f"w{number}" for number in range(60)]
SPECIAL = 4  # <s>, <pad>, </s> and <unk>, which fairseq's dictionaries begin with


def main() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("number", type=int, help="of texts")
    args = parser.parse_args()
    torch.manual_seed(1)
    config = BartConfig(
        vocab_size=SPECIAL + len(WORDS),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
    )
    model = BartForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder_attn.out_proj.weight" in name:  # so that hypotheses depend on the text
                parameter.mul_(30)
    model.save_pretrained(args.output)
    write_lines(args.output / "dict.txt", (f"{word} 1" for word in WORDS))
    draw = random.Random(1)
    texts = (" ".join(draw.choices(WORDS, k=draw.randint(2, 30))) for _ in range(args.number))
    write_lines(args.output / "texts", texts)


if __name__ == "__main__":
    main()
