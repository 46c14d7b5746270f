"""The same checkpoint in fairseq and in Transformers: are the best hypotheses equal?

Texts are lines of words of fairseq's dictionary. Everything runs in float64, so that sums in
another order decide nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import el_attention
from common.lines import read_lines, write_lines

PAD, EOS = 1, 2

Hypotheses = list[list[int]]


def tokenizer_of(symbols: Any) -> Any:
    """A tokenizer of Transformers for the words of a fairseq dictionary, with its numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: number for number, symbol in enumerate(symbols.symbols)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=symbols.unk_word))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {symbols.eos_word}", special_tokens=[(symbols.eos_word, symbols.eos())]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=symbols.bos_word,
        pad_token=symbols.pad_word,
        eos_token=symbols.eos_word,
        unk_token=symbols.unk_word,
    )


def by_fairseq(args: Namespace) -> tuple[Callable[[], Hypotheses], Any, list[str]]:
    """A generation by fairseq with EL-attention, the dictionary and the texts."""
    from fairseq import checkpoint_utils
    from fairseq.data.data_utils import collate_tokens

    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(args.checkpoint)], arg_overrides={"data": str(args.data)}
    )
    symbols = task.source_dictionary
    texts = read_lines(args.texts)[: args.number]
    options = Namespace(beam=args.beam, max_len_a=0, max_len_b=args.tokens - 1)
    models = [model.double().eval()]
    generator = el_attention.convert(task.build_generator(models, options))

    def generate() -> Hypotheses:
        found: Hypotheses = []
        for first in range(0, len(texts), args.batch_size):
            lines = texts[first : first + args.batch_size]
            rows = [symbols.encode_line(x, add_if_not_exist=False).long() for x in lines]
            sources = collate_tokens(rows, PAD, left_pad=True)
            lengths = torch.tensor([len(row) for row in rows])
            sample = {"net_input": {"src_tokens": sources, "src_lengths": lengths}}
            results = task.inference_step(generator, models, sample)
            found += [hypotheses[0]["tokens"].tolist() for hypotheses in results]
        return found

    return generate, symbols, texts


class OnlyEnd:
    """Leaves only the end of sentence for the last token, with its own score, as fairseq does."""

    def __init__(self, last: int) -> None:
        self._last = last

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        if tokens.size(1) == self._last:
            scores[:, torch.arange(scores.size(1)) != EOS] = -torch.inf
        return scores


def by_transformers(
    args: Namespace, model: Any, tokenizer: Any, texts: list[str]
) -> Callable[[], Hypotheses]:
    """A generation by Transformers, with the rules of fairseq's search."""

    def generate() -> Hypotheses:
        results = el_attention.generate_many(
            model,
            tokenizer,
            texts,
            progress=False,
            num_beams=args.beam,
            max_new_tokens=args.tokens,
            early_stopping=True,
            suppress_tokens=[PAD],
            begin_suppress_tokens=[EOS],
            forced_eos_token_id=None,
            logits_processor=[OnlyEnd(args.tokens)],
        )
        for text, result in zip(texts, results, strict=True):
            if result.reason is not None:
                sys.exit(f"compare.py: nothing for {text!r}: {result.reason}")
        return [list(result.tokens[0][1:]) for result in results]

    return generate


def main() -> None:
    from transformers import BartForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of fairseq")
    parser.add_argument("data", type=Path, help="folder with its dictionaries")
    parser.add_argument("transformers", type=Path, help="folder with the same model")
    parser.add_argument("texts", type=Path, help="file with a text on each line")
    parser.add_argument("--number", type=int, default=200, help="of texts; default: %(default)s")
    parser.add_argument("--beam", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=40, help="at most; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--table", type=Path, required=True, help="file to write")
    args = parser.parse_args()

    fairseq, symbols, texts = by_fairseq(args)
    tokenizer = tokenizer_of(symbols)
    stock, converted = (
        BartForConditionalGeneration.from_pretrained(args.transformers, dtype=torch.float64).eval()
        for _ in range(2)
    )
    el_attention.convert(converted)
    systems = {
        "Transformers": by_transformers(args, stock, tokenizer, texts),
        "Transformers, EL-attention": by_transformers(args, converted, tokenizer, texts),
        "fairseq, EL-attention": fairseq,
    }
    lines = [
        "| system | texts | tokens | other hypotheses | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    expected: Hypotheses | None = None
    differing = 0
    for name, generate in systems.items():
        started = time.perf_counter()
        found = generate()
        seconds = time.perf_counter() - started
        expected = found if expected is None else expected
        others = sum(one != other for one, other in zip(expected, found, strict=True))
        differing += others
        lines.append(
            f"| {name} | {len(found)} | {sum(map(len, found))} | {others} | {seconds:.1f} |"
        )
    write_lines(args.table, lines)
    if differing:
        sys.exit(f"compare.py: {differing} hypotheses differ, see {args.table}")


if __name__ == "__main__":
    main()
