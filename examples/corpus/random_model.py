"""A small random BART, with a tokenizer of the words of a file, as Transformers saves them."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def main() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

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

    torch.manual_seed(1)
    config = BartConfig(
        vocab_size=words.get_vocab_size(),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=256,
    )
    model = BartForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder_attn.out_proj.weight" in name:  # so that hypotheses depend on the text
                parameter.mul_(30)
    model.double().save_pretrained(args.output)


if __name__ == "__main__":
    main()
