"""Tiny corpora and fairseq checkpoints on disk, and fairseq's command lines run on them."""

from __future__ import annotations

import contextlib
import importlib
import io
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from fairseq.data import Dictionary, indexed_dataset

from el_attention import doctor

USER_DIR = str(doctor.user_dir())

SIZES = (
    "--encoder-embed-dim 24 --decoder-embed-dim 24 --encoder-ffn-embed-dim 40 "
    "--decoder-ffn-embed-dim 40 --encoder-attention-heads 4 --decoder-attention-heads 4 "
    "--encoder-layers 2 --decoder-layers 2 --max-source-positions 40 --max-target-positions 40"
).split()
LM_SIZES = (
    "--decoder-embed-dim 24 --decoder-input-dim 24 --decoder-output-dim 24 "
    "--decoder-ffn-embed-dim 40 --decoder-attention-heads 4 --decoder-layers 2 "
    "--tokens-per-sample 40"
).split()
TRANSLATION = ["--task", "translation", *SIZES]
MULTI = (
    "--task translation_multi_simple_epoch --langs en,de --lang-pairs en-de "
    "--encoder-langtok src --decoder-langtok"
).split()
OPTIMIZATION = (
    "--optimizer adam --lr 0.01 --clip-norm 1 --max-tokens 300 --max-update 60 --cpu --seed 1 "
    "--num-workers 0 --disable-validation --no-progress-bar --no-epoch-checkpoints"
).split()

# The data folder and the arguments of the stock fairseq-train that makes each checkpoint.
RECIPES: dict[str, tuple[str, list[str]]] = {
    "transformer": ("pair", [*TRANSLATION, "--arch", "transformer"]),
    "smaller": ("pair", [*TRANSLATION, "--arch", "transformer", "--decoder-layers", "1"]),
    "bart": ("joint", [*TRANSLATION, "--arch", "bart_base"]),
    "mbart": ("joint", [*TRANSLATION, "--arch", "mbart_base"]),
    "multi": ("joint", [*MULTI, *SIZES, "--arch", "transformer", "--share-all-embeddings"]),
    "lm": ("text", ["--task", "language_modeling", *LM_SIZES, "--arch", "transformer_lm_gpt"]),
    "denoising": (
        "text",
        ["--task", "denoising", *SIZES, "--arch", "bart_base", "--tokens-per-sample", "40"],
    ),
}

# What fairseq prints about sentences, apart from the time it took (W).
PRINTED = re.compile(r"[STHDPACIE]-\d|Generate ")


@dataclass(frozen=True)
class Workspace:
    """A folder with corpora, and a checkpoint for every recipe that is asked for.

    The corpus `pair` has languages src and tgt with dictionaries of their own; `joint` has en and
    de with one dictionary; `text` is monolingual, in tgt.
    """

    root: Path

    def data(self, recipe: str) -> str:
        """The data folder of a recipe."""
        return str(self.root / RECIPES[recipe][0])

    def checkpoint(self, recipe: str) -> str:
        """A checkpoint that stock fairseq-train wrote; made once."""
        folder = self.root / "checkpoints" / recipe
        if not folder.exists():
            run("train", *self.training(recipe), "--save-dir", str(folder))
        return str(folder / "checkpoint_last.pt")

    def training(self, recipe: str) -> list[str]:
        """The arguments of fairseq-train for a recipe, without --save-dir."""
        return [self.data(recipe), *RECIPES[recipe][1], *OPTIMIZATION]


def write_corpora(root: Path) -> Workspace:
    """Writes the corpora: random words, translated word by word, in reverse."""
    choose = random.Random(1)
    source, target, joint = _dictionary("s", 21), _dictionary("t", 17), _dictionary("w", 19)
    pairs = {
        "pair": {"src": source, "tgt": target},
        "joint": {"en": joint, "de": joint},
    }
    for name, languages in pairs.items():
        folder = root / name
        folder.mkdir(parents=True)
        for language, symbols in languages.items():
            symbols.save(str(folder / f"dict.{language}.txt"))
        for split, sentences in (("train", 60), ("valid", 12), ("test", 13)):
            texts = _sentences(choose, sentences, *languages.values())
            for (language, symbols), text in zip(languages.items(), texts, strict=True):
                _binarize(folder / f"{split}.{'-'.join(languages)}.{language}", text, symbols)
    (root / "text").mkdir()
    for folder in (root / "pair", root / "text"):  # a language model for --lm-path reads pair
        target.save(str(folder / "dict.txt"))
    for split, sentences in (("train", 60), ("test", 13)):
        _, text = _sentences(choose, sentences, source, target)
        _binarize(root / "text" / split, text, target)
    return Workspace(root)


def run(command: str, *arguments: str, stdin: str = "") -> list[str]:
    """Runs a fairseq command line in this process.

    Args:
        command: "generate", "interactive" or "train".
        arguments: after the program's name.
        stdin: what the command reads.

    Returns:
        The lines it prints about sentences.
    """
    module = importlib.import_module(f"fairseq_cli.{command}")
    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"fairseq-{command}", *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        contextlib.redirect_stdout(output),
    ):
        module.cli_main()
    return [line for line in output.getvalue().splitlines() if PRINTED.match(line)]


def _dictionary(prefix: str, words: int) -> Dictionary:
    symbols = Dictionary()
    for index in range(words):
        symbols.add_symbol(f"{prefix}{index}", n=words - index)
    return symbols


def _sentences(
    choose: random.Random, number: int, source: Dictionary, target: Dictionary
) -> tuple[list[list[int]], list[list[int]]]:
    words = len(target) - target.nspecial
    sources = [
        [choose.randrange(source.nspecial, len(source)) for _ in range(1 + index % 11)]
        for index in range(number)
    ]
    targets = [[target.nspecial + word * 5 % words for word in reversed(s)] for s in sources]
    return sources, targets


def _binarize(path: Path, sentences: Sequence[Sequence[int]], symbols: Dictionary) -> None:
    builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", len(symbols))
    for sentence in sentences:
        builder.add_item(torch.tensor([*sentence, symbols.eos()], dtype=torch.int))
    builder.finalize(f"{path}.idx")
