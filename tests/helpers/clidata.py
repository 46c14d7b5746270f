"""Tiny corpora and fairseq checkpoints on disk, and fairseq's command lines run on them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy
import torch
from fairseq.data import Dictionary, indexed_dataset
from filelock import FileLock

from el_attention.cli import doctor

USER_DIR = str(doctor.user_dir())

# fairseq 0.12 builds sets of single sentences with a name that numpy 2 no longer has.
SINGLE_SENTENCES = not numpy.__version__.startswith("2")

SIZES = (
    "--encoder-embed-dim 24 --decoder-embed-dim 24 --encoder-ffn-embed-dim 40 "
    "--decoder-ffn-embed-dim 40 --encoder-attention-heads 4 --decoder-attention-heads 4 "
    "--encoder-layers 2 --decoder-layers 2 --encoder-normalize-before "
    "--max-source-positions 40 --max-target-positions 40"
).split()
LM_SIZES = (
    "--decoder-embed-dim 24 --decoder-input-dim 24 --decoder-output-dim 24 "
    "--decoder-ffn-embed-dim 40 --decoder-attention-heads 4 --decoder-layers 2 "
    "--tokens-per-sample 40"
).split()
OPTIMIZATION = (
    "--optimizer adam --lr 0.01 --clip-norm 1 --max-tokens 300 --max-update 60 --cpu --seed 1 "
    "--num-workers 0 --disable-validation --no-progress-bar --no-epoch-checkpoints "
    "--save-interval 100"  # but for the last one
).split()


class Setup(NamedTuple):
    """A data folder and the options of a stock task on it."""

    data: str
    task: str
    options: str = ""

    def arguments(self, root: Path, prefix: str = "") -> list[str]:
        """The arguments that set up the task, or the one whose name has a prefix."""
        return [str(root / self.data), "--task", prefix + self.task, *self.options.split()]


SETUPS = {
    "translation": Setup("pair", "translation"),
    "joint": Setup("joint", "translation"),
    "mbart": Setup(
        "joint", "translation_from_pretrained_bart", "--langs en,de --prepend-bos -s en -t de"
    ),
    "multi": Setup(
        "joint",
        "translation_multi_simple_epoch",
        "--langs en,de --lang-pairs en-de --encoder-langtok src --decoder-langtok",
    ),
    "denoising": Setup("noise", "denoising", "--sample-break-mode eos"),
    "lm": Setup("text", "language_modeling"),
}

# How fairseq-train makes each checkpoint: the setup and the model.  fairseq's own
# translation_from_pretrained_bart fails when it loads data, so its twin does that training.
CHECKPOINTS: dict[str, tuple[str, str, list[str]]] = {
    "transformer": ("translation", "", ["--arch", "transformer", *SIZES]),
    "smaller": ("translation", "", ["--arch", "transformer", *SIZES, "--decoder-layers", "1"]),
    "bart": ("joint", "", ["--arch", "bart_base", *SIZES]),
    "mbart": ("mbart", "el_", ["--arch", "mbart_base", *SIZES]),
    "multi": ("multi", "", ["--arch", "transformer", "--share-all-embeddings", *SIZES]),
    "lm": ("lm", "", ["--arch", "transformer_lm_gpt", *LM_SIZES]),
}

# What fairseq prints about sentences, apart from the time it took (W).
PRINTED = re.compile(r"[STHDPACIE]-\d|Generate ")


@dataclass(frozen=True)
class Workspace:
    """A folder with corpora, and a checkpoint of every kind that is asked for.

    The corpus `pair` has languages src and tgt with dictionaries of their own; `joint` has en and
    de with one dictionary; `text` is monolingual in tgt, `noise` in the joint dictionary.
    """

    root: Path

    def training(self, checkpoint: str) -> list[str]:
        """The arguments of fairseq-train for a checkpoint, without --save-dir."""
        setup, prefix, model = CHECKPOINTS[checkpoint]
        return [*SETUPS[setup].arguments(self.root, prefix), *model, *OPTIMIZATION]

    def checkpoint(self, name: str) -> str:
        """The path of a checkpoint that fairseq-train wrote; made once for all processes."""
        folder = self.root / "checkpoints" / name
        with FileLock(self.root / f"{name}.lock"):
            if not folder.exists():
                run("train", *self.training(name), "--save-dir", str(folder))
        return str(folder / "checkpoint_last.pt")

    def generation(
        self, setup: str, checkpoints: str, *options: str, plan: str | None = None
    ) -> list[str]:
        """The arguments of fairseq-generate and fairseq-interactive.

        Args:
            setup: a key of `SETUPS`.
            checkpoints: keys of `CHECKPOINTS`, separated by colons.
            options: more arguments.
            plan: the plan of EL-attention; None for the stock task.
        """
        prefix, chosen = ("", []) if plan is None else ("el_", ["--attention-plan", plan])
        paths = ":".join(self.checkpoint(name) for name in checkpoints.split(":"))
        return [
            *SETUPS[setup].arguments(self.root, prefix),
            *chosen,
            *("--path", paths, "--user-dir", USER_DIR, "--cpu"),
            *options,
        ]


def write_corpora(root: Path) -> Workspace:
    """Writes the corpora: random words, translated word by word, in reverse."""
    choose = random.Random(1)
    source, target, joint = _dictionary("s", 21), _dictionary("t", 17), _dictionary("w", 19)
    for symbol in ("[en]", "[de]", "<mask>"):
        joint.add_symbol(symbol)
    for folder in ("pair", "joint", "text", "noise"):
        (root / folder).mkdir(parents=True)
    # A language model for --lm-path reads its dictionary in pair.
    target.save(str(root / "pair" / "dict.txt"))
    for folder, languages in (
        ("pair", {"src": source, "tgt": target}),
        ("joint", {"en": joint, "de": joint}),
    ):
        for language, symbols in languages.items():
            symbols.save(str(root / folder / f"dict.{language}.txt"))
        for split, size in (("train", 60), ("valid", 12), ("test", 13)):
            texts = _sentences(choose, size, *languages.values())
            name = f"{split}.{'-'.join(languages)}"
            for language, text in zip(languages, texts, strict=True):
                binarize(root / folder / f"{name}.{language}", text, languages[language])
    for folder, symbols in (("text", target), ("noise", joint)):
        symbols.save(str(root / folder / "dict.txt"))
        for split, size in (("train", 60), ("valid", 12), ("test", 13)):
            _, text = _sentences(choose, size, joint, symbols)
            binarize(root / folder / split, text, symbols)
    return Workspace(root)


def binarize(path: Path, sentences: Sequence[Sequence[int]], symbols: Dictionary) -> None:
    """Writes sentences, without their eos, as fairseq-preprocess does."""
    builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", len(symbols))
    for sentence in sentences:
        builder.add_item(torch.tensor([*sentence, symbols.eos()], dtype=torch.int))
    builder.finalize(f"{path}.idx")


def run(command: str, *arguments: str, stdin: str = "") -> list[str]:
    """Runs a fairseq command line in this process.

    Args:
        command: "generate", "interactive" or "train".
        arguments: after the program's name.
        stdin: what the command reads.

    Returns:
        The lines it prints about sentences.
    """
    if command == "generate":
        # Stock fairseq-fixed drops the sentences of an incomplete last batch.
        arguments = ("--num-workers", "0", "--required-batch-size-multiple", "1", *arguments)
    module = importlib.import_module(f"fairseq_cli.{command}")
    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"fairseq-{command}", *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        contextlib.redirect_stdout(output),
    ):
        module.cli_main()
    return [line for line in output.getvalue().splitlines() if PRINTED.match(line)]


@functools.cache
def run_once(command: str, *arguments: str, stdin: str = "") -> list[str]:
    """What `run` returns, from memory the second time: for references of several tests."""
    return run(command, *arguments, stdin=stdin)


def _dictionary(prefix: str, words: int) -> Dictionary:
    symbols = Dictionary()
    for index in range(words):
        symbols.add_symbol(f"{prefix}{index}", n=words - index)
    return symbols


def _sentences(
    choose: random.Random, number: int, source: Dictionary, target: Dictionary
) -> tuple[list[list[int]], list[list[int]]]:
    words, translations = _words(source), _words(target)
    sources = [[choose.choice(words) for _ in range(1 + index % 11)] for index in range(number)]
    targets = [[translations[word * 5 % len(translations)] for word in s[::-1]] for s in sources]
    return sources, targets


def _words(symbols: Dictionary) -> list[int]:
    return [index for index, symbol in enumerate(symbols.symbols) if symbol[-1].isdigit()]
