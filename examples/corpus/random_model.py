"""A small random BART, with a tokenizer of the words of a file, as Transformers saves them."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.random_bart import random_bart

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def main() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, help="one in each line")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--vocabulary", type=int, default=2000)
    args = parser.parse_args()

    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train(
        [str(args.texts)],
        trainers.WordLevelTrainer(vocab_size=args.vocabulary, special_tokens=SPECIAL),
    )
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=256, **dict(zip(names, SPECIAL, strict=True))
    )
    tokenizer.save_pretrained(args.output)

    model = random_bart(words.get_vocab_size(), positions=256)
    model.double().save_pretrained(args.output)


if __name__ == "__main__":
    main()
