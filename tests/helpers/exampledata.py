"""Small files in the real formats of the examples' data and models; the text is our own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import sys
import tarfile
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq_cli import preprocess

import tiny
from common import pairs, pieces
from common.lines import read_lines, write_lines

SPLIT_SIZES = {"train": 12, "valid": 5, "test": 6}

_WHO = "The baker|A young engineer|The old harbour|Her neighbour|The village choir".split("|")
_DOES = "repairs|paints|describes|measures|sells|remembers".split("|")
_WHAT = "a wooden boat|the café door|seven small bells|an unusual map|the north bridge".split("|")
_WHEN = "every spring|before the rain|after lunch|on Sundays|without a word".split("|")


def sentence(choose: random.Random) -> str:
    return " ".join(choose.choice(words) for words in (_WHO, _DOES, _WHAT, _WHEN))


def article(number: int) -> tuple[list[str], list[str]]:
    """Sentences of a document, and of its summary."""
    choose = random.Random(number)
    body = [sentence(choose) for _ in range(2 + number % 4)]
    return body, [sentence(choose) for _ in range(1 + number % 2)]


def numbered_splits() -> dict[str, range]:
    """The numbers of the articles of each split."""
    splits, start = {}, 0
    for split, size in SPLIT_SIZES.items():
        splits[split] = range(start, start + size)
        start += size
    return splits


def write_archive(path: Path, folder: Path) -> None:
    """Packs a folder, whose name stays in the members' names."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


# --- data ---


def write_cnn_dm(folder: Path) -> None:
    """Stories of both publishers, unpacked, and the lists of their URLs."""
    names = {"train": "train", "valid": "val", "test": "test"}
    for split, numbers in numbered_splits().items():
        urls = []
        for number in numbers:
            publisher = ("cnn", "dailymail")[number % 2]
            url = f"http://web.archive.org/web/2015/http://www.{publisher}.example/{number}.html"
            urls.append(url)
            body, highlights = article(number)
            text = "\n\n".join(["(TOWN) -- " + body[0] + ".", *body[1:]])
            text += "".join(f"\n\n@highlight\n\n{line}" for line in highlights) + "\n"
            path = (
                folder / publisher / "stories" / f"{hashlib.sha1(url.encode()).hexdigest()}.story"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (folder / f"all_{names[split]}.txt").write_text("\n".join(urls) + "\n")


def write_xsum(folder: Path) -> None:
    """Articles, unpacked, and the split."""
    (folder / "bbc-summary-data").mkdir(parents=True)
    split = {}
    for name, numbers in numbered_splits().items():
        split["validation" if name == "valid" else name] = [f"{31 + number}" for number in numbers]
        for number in numbers:
            body, summary = article(number)
            sections = {
                "URL": f"http://web.archive.org/web/2015/http://www.bbc.example/{31 + number}",
                "TITLE": f"Story {number}",
                "FIRST-SENTENCE": summary[0] + ".",
                "RESTBODY": "\n".join(["Share this with", "Email", *(line + "." for line in body)]),
            }
            (folder / "bbc-summary-data" / f"{31 + number}.summary").write_text(
                "\n\n".join(f"[SN]{name}[SN]\n{text}" for name, text in sections.items()) + "\n"
            )
    (folder / "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json").write_text(json.dumps(split))


def squad_article(title: str, numbers: range) -> dict[str, Any]:
    """An article with a paragraph, and a question with two answers, for each number."""
    paragraphs = []
    for number in numbers:
        context = ". ".join(article(number)[0]) + "."
        answer = {"answer_start": 0, "text": context.split()[1]}
        question = f"Who {sentence(random.Random(number)).split(' ', 2)[2]}?"
        answers = [answer, {"answer_start": 0, "text": "another"}]
        qas = [{"id": f"{number:024x}", "question": question, "answers": answers}]
        paragraphs.append({"context": context, "qas": qas})
    return {"title": title, "paragraphs": paragraphs}


def write_squad(folder: Path) -> None:
    """SQuAD files and the list of test articles, whose title is spelt in another way."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = numbered_splits()
    train = [
        squad_article("Caf%C3%A9", splits["test"]),
        squad_article("Harbour", splits["train"]),
    ]
    dev = [squad_article("Bells", splits["valid"])]
    for name, data in (("train", train), ("dev", dev)):
        content = {"data": data, "version": "1.1"}
        (folder / f"{name}-v1.1.json").write_text(json.dumps(content))
    (folder / "doclist-test.txt").write_text("Café\n", encoding="utf-8")


# --- fairseq-preprocess ---


def binarise(*arguments: object) -> None:
    """Runs fairseq-preprocess."""
    words = ["fairseq-preprocess", *map(str, arguments)]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(io.StringIO()):
        preprocess.cli_main()


def encode_for_bart(work: Path, model: Path) -> None:
    """The steps of common/bart.sh before generation."""
    bpe = pieces.load_bpe(model)
    (work / "pieces").mkdir()
    for side in pairs.SIDES:
        lines = read_lines(work / "data" / f"test.{side}")
        encoded = (pieces.encode_line(bpe, line, 1022, begin="<s>") for line in lines)
        write_lines(work / "pieces" / f"test.{side}", encoded)
    dictionaries = ["--srcdict", model / "dict.txt", "--tgtdict", model / "dict.txt"]
    languages = ["--source-lang", "source", "--target-lang", "target"]
    prefix = ["--testpref", work / "pieces" / "test", "--destdir", work / "binary"]
    binarise(*languages, *prefix, *dictionaries)


# --- models ---

_MERGES = "h e|Ġ t|Ġt he|i n|r e|a n|e r|Ġ b|o r|Ġ w|a t|Ġ s".split("|")


def bpe_vocabulary() -> dict[str, int]:
    """A byte-level BPE vocabulary: all bytes, a few merges and the end of text, as GPT-2's."""
    tokens = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in _MERGES)]
    return {token: number for number, token in enumerate([*tokens, "<|endoftext|>"])}


def write_bpe(folder: Path, vocabulary: str, merges: str) -> None:
    """The vocabulary and the merges under the names of fairseq or of Transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / vocabulary).write_text(json.dumps(bpe_vocabulary()))
    (folder / merges).write_text("\n".join(["#version: 0.2", *_MERGES]) + "\n", encoding="utf-8")


def write_bart(folder: Path, seed: int = 0) -> None:
    """A random BART in the form of the released ones: model.pt, dict.txt and the BPE's files."""
    write_bpe(folder, "encoder.json", "vocab.bpe")
    symbols = Dictionary()
    numbers = list(bpe_vocabulary().values())[:-1]
    random.Random(1).shuffle(numbers)  # real ones are sorted by frequency
    for number in numbers:
        symbols.add_symbol(str(number))
    symbols.save(str(folder / "dict.txt"))
    sizes = {"max_source_positions": 1024, "max_target_positions": 1024}
    options = tiny.arguments("bart", share_all_embeddings=True, **sizes)
    del options._name  # which no command line sets
    vars(options).update(task="translation", source_lang="source", target_lang="target")
    model = tiny.build("bart", symbols, seed, share_all_embeddings=True, **sizes)
    save_checkpoint(folder / "model.pt", options, model)


def save_checkpoint(path: Path, options: Namespace, model: torch.nn.Module) -> None:
    history = {"criterion_name": "Criterion", "optimizer_name": "Adam", "lr_scheduler_state": {}}
    torch.save(
        {
            "args": options,
            "model": model.state_dict(),
            "optimizer_history": [{**history, "num_updates": 1}],
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        },
        path,
    )


GPT2_CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_embd": 24,
    "n_head": 4,
    "n_layer": 3,
    "n_positions": 64,
    "vocab_size": len(bpe_vocabulary()),
}


def gpt2_weights(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names of the released GPT-2, far from their initial values."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    weights = {
        "wte.weight": noise(config["vocab_size"], width, scale=0.6),
        "wpe.weight": noise(config["n_positions"], width),
    }
    linear = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, inner),
        "mlp.c_proj": (inner, width),
    }
    norms = ["ln_f"]
    for layer in range(config["n_layer"]):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, shape in linear.items():
            weights[f"h.{layer}.{name}.weight"] = noise(*shape)
            weights[f"h.{layer}.{name}.bias"] = noise(shape[1])
        mask = torch.ones(config["n_positions"], config["n_positions"]).tril()
        weights[f"h.{layer}.attn.bias"] = mask[None, None]
    for name in norms:
        weights[f"{name}.weight"] = 1 + noise(width)
        weights[f"{name}.bias"] = noise(width)
    return weights


def write_gpt2(folder: Path, seed: int = 0, **config: Any) -> None:
    """A random GPT-2 as Transformers stores it; `config` overrides GPT2_CONFIG."""
    safetensors = pytest.importorskip("safetensors.torch", reason="of the extra `examples`")
    config = GPT2_CONFIG | config
    write_bpe(folder, "vocab.json", "merges.txt")
    (folder / "config.json").write_text(json.dumps(config))
    weights = gpt2_weights(config, seed)
    safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# --- WordNet ---


def write_wordnet(folder: Path) -> None:
    """A WordNet with one synset, {boat, ship}, in the format of WordNet 3.0."""
    root = folder / "corpora" / "wordnet"
    root.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            (root / name).write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (root / name).write_text("")
    (root / "lexnames").write_text(
        "00\tadj.all\t3\n01\tadj.pert\t3\n02\tadv.all\t4\n03\tnoun.Tops\t1\n"
    )
    header = "  1 WordNet 3.0 Copyright: the name of the version, for programs that look for it\n"
    (root / "data.adj").write_text(header)
    offset = f"{len(header):08d}"
    synset = f"{offset} 03 n 02 boat 0 ship 0 000 | a vessel for travel on water\n"
    (root / "data.noun").write_text(header + synset)
    (root / "index.noun").write_text(
        "".join(f"{word} n 1 0 1 0 {offset}\n" for word in ("boat", "ship"))
    )
