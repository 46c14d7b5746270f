"""Corpora through checkpoints of fairseq: the hypotheses of its own programs and hub interfaces."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel

from clidata import SETUPS, SINGLE_SENTENCES, Workspace, run
from corpora import read_rows, write_rows
from crossed import crossed
from el_attention import cli
from el_attention.corpus import Generator, Recipe, Source, generate, merge
from el_attention.corpus.engine import Engine
from printed import EVERY_SENTENCE

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def recipe_of(workspace: Workspace, checkpoints: str, setup: str, **options: Any) -> Recipe:
    path = ":".join(workspace.checkpoint(name) for name in checkpoints.split(":"))
    data = str(workspace.root / SETUPS[setup].data)
    return Recipe(path, {"beam": 4, "max_len_b": 8, **options}, device="cpu", data=data)


def printed_by_stock(
    workspace: Workspace, setup: str, checkpoints: str, *options: str
) -> dict[int, list[tuple[str, float]]]:
    """The text and the score, in natural logarithms, of the hypotheses of each sentence."""
    # fairseq's own task fails when it loads the data of mBART.
    plan = "auto" if setup == "mbart" else None
    arguments = ["--batch-size", "1", "--beam", "4", "--max-len-b", "8", *options]
    found: dict[int, list[tuple[str, float]]] = {}
    for line in run("generate", *workspace.generation(setup, checkpoints, *arguments, plan=plan)):
        if line.startswith("D-"):
            name, score, text = line.split("\t")
            found.setdefault(int(name[2:]), []).append((text, float(score) * math.log(2)))
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "multi": {"source_lang": "en", "target_lang": "de"},
    "lm": {"sample_break_mode": "eos", "max_len_b": 20},
}
CASES = [
    *((*case, {}, "") for case in EVERY_SENTENCE),
    (
        *("translation", "transformer:smaller", ""),
        *({"nbest": 3, "lenpen": 0.7}, "--nbest 3 --lenpen .7"),
    ),
    (
        *("translation", "transformer", ""),
        *({"prefix_size": 1, "max_len_a": 0.5}, "--prefix-size 1 --max-len-a .5"),
    ),
    ("joint", "bart", "", {"post_process": "sentencepiece"}, "--remove-bpe sentencepiece"),
]


@pytest.mark.parametrize(("setup", "checkpoints", "needed", "options", "given"), crossed(CASES))
def test_sentences_have_the_hypotheses_that_fairseq_generate_prints(
    setup, checkpoints, needed, options, given, workspace, tmp_path
) -> None:
    if setup == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    given = [*needed.split(), *given.split()]
    if setup == "lm":
        given += ["--max-len-b", "20"]
    recipe = recipe_of(workspace, checkpoints, setup, **{**OPTIONS.get(setup, {}), **options})
    folder = Path(str(recipe.data))
    report = generate(recipe, Source(folder), tmp_path / "out.jsonl", memory_budget=10**6)
    assert report.rows == 13 and not report.reasons
    stock = printed_by_stock(workspace, setup, checkpoints, *given)
    for number, row in enumerate(read_rows(tmp_path / "out.jsonl")):
        assert (row["id"], row["reason"]) == (number, None)
        texts, scores = zip(*stock[number], strict=True)
        assert row["hypotheses"] == list(texts)
        assert row["scores"] == pytest.approx(scores, rel=1e-4, abs=1e-4)


TEXTS = ["3 1 4", "1 5 9 2 6 5 3 5", "8", "9 7 9 3 2", "unheard of"]


def rows_for(setup: str) -> list[dict[str, Any]]:
    """Rows in the words of a setup's dictionary, but for the last."""
    letter = {"translation": "s", "joint": "w", "lm": "t"}[setup]
    texts = [" ".join(letter + x for x in text.split()) for text in TEXTS[:-1]]
    return [{"key": f"r{n}", "text": text} for n, text in enumerate([*texts, TEXTS[-1]])]


class Words:
    """What stands for BPE in BART's hub interface, which needs one: words are tokens."""

    def encode(self, text: str) -> str:
        return text

    decode = encode


HUBS: dict[str, tuple[str, type[Any], str | None]] = {
    "transformer": ("translation", TransformerModel, None),
    "smaller": ("translation", TransformerModel, "sentencepiece"),
    "bart": ("joint", BARTModel, None),
    "lm": ("lm", TransformerLanguageModel, None),
}


def trained_sentencepiece(folder: Path, rows: list[dict[str, Any]]) -> str:
    """The path of a model of pieces of one character, none of which is in a dictionary."""
    trainer = pytest.importorskip("sentencepiece", reason="of the extra `demo`")
    texts = write_rows(folder / "training.txt", [row["text"] for row in rows])
    trainer.SentencePieceTrainer.train(
        input=str(texts),
        model_prefix=str(folder / "pieces"),
        model_type="char",
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return str(folder / "pieces.model")


@pytest.mark.parametrize(("checkpoint", "suffix"), crossed(HUBS, [".jsonl", ".txt"]))
def test_texts_have_the_hypotheses_of_the_hub_interface(
    checkpoint, suffix, workspace, tmp_path
) -> None:
    setup, kind, bpe = HUBS[checkpoint]
    path, rows = Path(workspace.checkpoint(checkpoint)), rows_for(setup)
    if checkpoint == "bart":  # whose interface adds unknown words to its dictionary, and fails
        del rows[-1]
    coding: dict[str, Any] = {}
    if bpe is not None:
        coding = {"bpe": bpe, "sentencepiece_model": trained_sentencepiece(tmp_path, rows)}
    data = workspace.root / SETUPS[setup].data
    hub = kind.from_pretrained(str(path.parent), path.name, str(data), **(coding or {"bpe": None}))
    if checkpoint == "bart":
        hub.bpe = Words()
    options: dict[str, Any] = {"max_len_b": 20 if checkpoint == "lm" else 8, "lenpen": 0.8}
    expected = [hub.generate([hub.encode(row["text"])], beam=4, **options)[0][:2] for row in rows]
    corpus = write_rows(
        tmp_path / f"rows{suffix}", rows if suffix == ".jsonl" else [row["text"] for row in rows]
    )
    recipe = recipe_of(workspace, checkpoint, setup, nbest=2, **options, **coding)
    column = "key" if suffix == ".jsonl" else None
    generate(recipe, Source(corpus, id_column=column), tmp_path / "out.jsonl", memory_budget=10**6)
    for number, (row, hypotheses) in enumerate(
        zip(read_rows(tmp_path / "out.jsonl"), expected, strict=True)
    ):
        assert (row["id"], row["reason"]) == (f"r{number}" if column else number + 1, None)
        assert row["hypotheses"] == [hub.decode(x["tokens"]) for x in hypotheses]
        assert row["scores"] == pytest.approx([float(x["score"]) for x in hypotheses], rel=1e-4)


def test_bad_texts_and_sentences_are_named(workspace, tmp_path) -> None:
    rows = ["s1 s2", "", " ", "s1 " * 40, "s1 " * 39]
    corpus = write_rows(tmp_path / "rows.txt", rows)
    recipe = recipe_of(workspace, "transformer", "translation")
    report = generate(recipe, Source(corpus), tmp_path / "out.jsonl")
    reasons = [row["reason"] for row in read_rows(tmp_path / "out.jsonl")]
    empty, long = (
        "it is empty: there is nothing in it",
        "it is too long: 41 tokens, the model reads",
    )
    assert reasons[:3] == [None, empty, empty] and reasons[4] is None
    assert reasons[3].startswith(long)
    assert report.reasons == {"it is empty": 2, "it is too long": 1}
    cut = Recipe(**{**vars(recipe), "truncation": True})
    generate(cut, Source(corpus), tmp_path / "cut.jsonl")
    found = read_rows(tmp_path / "cut.jsonl")
    assert found[3]["hypotheses"] == found[4]["hypotheses"] != []
    lm = recipe_of(workspace, "lm", "lm", max_len_b=5)
    corpus = write_rows(tmp_path / "prompts.txt", ["t1 " * 4, "t1 " * 5])
    generate(lm, Source(corpus), tmp_path / "lm.jsonl")
    first, second = read_rows(tmp_path / "lm.jsonl")
    assert first["hypotheses"] and "it is too long: 6 tokens, which leave none" in second["reason"]


@pytest.mark.slow
@pytest.mark.rest
def test_what_is_drawn_depends_on_seed_and_place_alone(workspace, tmp_path) -> None:
    recipe = recipe_of(workspace, "bart", "joint", sampling=True, beam=2, nbest=2)
    source = Source(Path(str(recipe.data)))
    outputs = []
    for name, workers in (("one", None), ("two", 2)):
        generate(recipe, source, tmp_path / f"{name}.jsonl", workers=workers, memory_budget=10**6)
        outputs.append((tmp_path / f"{name}.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    other = Recipe(**{**vars(recipe), "seed": 1})
    generate(other, source, tmp_path / "other.jsonl", memory_budget=10**6)
    assert (tmp_path / "other.jsonl").read_bytes() != outputs[0]


@pytest.mark.slow
@pytest.mark.rest
def test_workers_shards_and_the_command_give_one_output(
    workspace, tmp_path, monkeypatch, capsys
) -> None:
    recipe = recipe_of(workspace, "transformer", "translation", beam=3)
    folder = Path(str(recipe.data))
    command = ["generate", recipe.model, str(folder)]
    options = ["--option=beam=3", "--option=max_len_b=8", "--memory-budget=60kB", "--device=cpu"]

    def through(name: str, *more: str) -> bytes:
        output = tmp_path / f"{name}.jsonl"
        assert cli.main([*command, str(output), *options, *more]) == 0, capsys.readouterr().err
        return output.read_bytes()

    whole = through("whole")
    assert [json.loads(line)["id"] for line in whole.splitlines()] == [*range(13)]
    assert through("workers", "--workers=2") == whole
    shards = [tmp_path / f"{number}.jsonl" for number in (1, 2)]
    for number in (1, 2):
        through(str(number), f"--shard={number}/2")
    assert merge(folder, shards, tmp_path / "merged.jsonl") == 13
    assert (tmp_path / "merged.jsonl").read_bytes() == whole
    assert 0 < len(read_rows(shards[0])) < 13
    # What was not finished is done again, and nothing else is.
    calls: list[int] = []
    original = Engine.generate

    def failing(self: Engine, batch: Any) -> Any:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(batch))
        return original(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "generate", failing)
        assert cli.main([*command, str(tmp_path / "again.jsonl"), *options]) == 130
    assert through("again") == whole and 0 < calls[0] < 13
    capsys.readouterr()
    arguments = [*options, "--option=lenpen=2"]
    assert cli.main([*command, str(tmp_path / "whole.jsonl"), *arguments]) == 1
    assert "lenpen was '1.0' there and is '2.0' here" in capsys.readouterr().err


def test_a_generator_of_a_checkpoint_has_scores(workspace) -> None:
    rows = rows_for("joint")
    recipe = recipe_of(workspace, "bart", "joint")
    found = Generator(recipe, memory_budget=10**6)({"text": [row["text"] for row in rows]})
    assert len(found["scores"]) == len(rows) and all(len(row) == 1 for row in found["scores"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"beem": 3}, "option beem: expected one of .*beam"),
    "kind": ({"beam": 4.5}, "option beam: expected a value such as 5, got 4.5"),
    "text": ({"lenpen": "a"}, "option lenpen: expected a number, got 'a'"),
    "bool": ({"sampling": "yes"}, "option sampling: expected a value such as False, got 'yes'"),
    "zero": ({"beam": 0}, "beam: expected at least 1, got 0"),
    "none of the best": ({"nbest": 0}, "option nbest: expected at least 1, got 0"),
    "printed": ({"print_alignment": "hard"}, "option print_alignment: expected none, because it p"),
    "constraints": ({"constraints": "ordered"}, "option constraints: expected none, because rows"),
    "plan": ({"attention_plan": "auto"}, "the plan has an argument of its own"),
    "task": ({"task": "translation_lev"}, "task el_translation_lev: expected one of el_denoising"),
    "bpe": ({"bpe": "none"}, "option bpe: expected one of"),
    "no model of bpe": ({"bpe": "sentencepiece"}, "cannot generate with .*sentencepiece_model"),
    "effect": ({"diverse_beam_strength": 0.7}, "there are no --diverse-beam-groups"),
    "lm": ({"lm_path": "/nowhere.pt"}, "cannot be loaded: .*/nowhere.pt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_cannot_be_are_one_error(case, workspace, tmp_path) -> None:
    options, message = REFUSED[case]
    recipe = recipe_of(workspace, "transformer", "translation", **options)
    with pytest.raises(ValueError, match=message):
        generate(recipe, Source(Path(str(recipe.data))), tmp_path / "out.jsonl")
    assert not [*tmp_path.iterdir()]


def test_what_does_not_go_together_is_one_error(workspace, tmp_path, monkeypatch) -> None:
    recipe = recipe_of(workspace, "transformer", "translation")
    folder, output = Path(str(recipe.data)), tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"data set of fairseq of files none\.\*, there are \['di"):
        generate(recipe, Source(folder, split="none"), output)
    with pytest.raises(ValueError, match="for the column of ids 'key'; a folder is a data set"):
        generate(recipe, Source(folder, id_column="key"), output)
    with pytest.raises(ValueError, match="truncation: expected none of a data set"):
        generate(Recipe(**{**vars(recipe), "truncation": True}), Source(folder), output)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "test.txt").write_text("s1\n")
    with pytest.raises(ValueError, match=r"model .*: cannot be loaded: "):
        generate(recipe, Source(tmp_path / "other"), output)
    with pytest.raises(ValueError, match=r"model none\.pt: cannot be loaded: .*none\.pt"):
        generate(Recipe("none.pt"), Source(folder), output)
    monkeypatch.setattr("el_attention.fairseq_error", ImportError("no fairseq"))
    with pytest.raises(ImportError, match="a checkpoint of fairseq needs it: no fairseq"):
        generate(recipe, Source(folder), output)
    assert not output.exists()


class Evil:
    """What runs code where it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return Path.touch, (self.flag,)


def test_nothing_in_a_checkpoint_is_executed(workspace, tmp_path) -> None:
    torch.save({"args": None, "cfg": Evil(tmp_path / "flag"), "model": {}}, tmp_path / "evil.pt")
    recipe = Recipe(str(tmp_path / "evil.pt"), device="cpu", data=str(workspace.root / "pair"))
    source = Source(write_rows(tmp_path / "rows.txt", ["s1"]))
    with pytest.raises(ValueError, match=r"evil\.pt: cannot be loaded: UnpicklingError"):
        generate(recipe, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "flag").exists()


def test_a_data_set_needs_a_checkpoint_of_fairseq(workspace, tmp_path) -> None:
    pytest.importorskip("transformers", reason="of the extra `transformers`")
    folder = workspace.root / "pair"
    with pytest.raises(ValueError, match="model x: expected texts and no data set"):
        generate(Recipe("x"), Source(folder), tmp_path / "out.jsonl")
