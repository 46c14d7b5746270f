"""Corpora through real models: the hypotheses of stock `generate`, by the command line."""

from __future__ import annotations

import copy
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpora import ROWS, forked, read_rows, saved_model, write_rows
from el_attention import cli
from manytexts import model_of, tokenizer_of

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")
if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip("runs are served from Transformers 5.0 on", allow_module_level=True)

from transformers.generation import GenerationMixin  # noqa: E402

from el_attention.corpus import Generator, Recipe, Source, engine, generate  # noqa: E402
from el_attention.corpus.store import folder_of  # noqa: E402
from el_attention.decoder import FreedModule  # noqa: E402
from el_attention.ops import extension  # noqa: E402

OPTIONS = {"num_beams": 3, "max_new_tokens": 6, "output_scores": True}
ARGUMENTS = [
    *("--option=num_beams=3", "--option=max_new_tokens=6", "--option=output_scores=true"),
    *("--id-column=key", "--device=cpu"),
]


@pytest.fixture(scope="module", params=["bart", "gpt2"])
def folder(request, tmp_path_factory) -> Path:
    """A model's, and rows for it."""
    path = saved_model(tmp_path_factory.mktemp("model"), request.param)
    write_rows(path / "rows.jsonl", ROWS)
    (path / "name").write_text(request.param)
    return path


def alone(folder: Path) -> list[dict[str, Any]]:
    """What stock `generate` returns for each row alone."""
    name = (folder / "name").read_text()
    model, tokenizer = model_of(name), tokenizer_of(name)
    found = []
    for row in ROWS:
        inputs = tokenizer(row["text"], return_tensors="pt", return_token_type_ids=False)
        output = model.generate(**inputs, **OPTIONS, return_dict_in_generate=True)
        prompt = 0 if model.config.is_encoder_decoder else inputs["input_ids"].size(1)
        (text,) = tokenizer.batch_decode(output.sequences[:, prompt:], skip_special_tokens=True)
        scores = pytest.approx(output.sequences_scores.tolist(), abs=1e-9)
        found.append({"id": row["key"], "hypotheses": [text], "scores": scores, "reason": None})
    return found


def test_the_command_finds_what_stock_generate_finds(folder, tmp_path, capsys) -> None:
    output = tmp_path / "out.jsonl"
    command = ["generate", str(folder), str(folder / "rows.jsonl"), str(output), *ARGUMENTS]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{output}: {len(ROWS)} rows\n"
    assert f"{len(ROWS)} of {len(ROWS)} rows, " in printed.err
    assert read_rows(output) == alone(folder)
    assert cli.main(["--quiet" if x == "--device=cpu" else x for x in command]) == 0


@pytest.fixture(scope="module")
def bart(tmp_path_factory) -> Path:
    """The folder of a model, and rows for it."""
    path = saved_model(tmp_path_factory.mktemp("bart"))
    write_rows(path / "rows.jsonl", ROWS)
    return path


REFUSED: dict[str, tuple[list[str], str]] = {
    "options": (
        ["--option=num_beams=2", "--option=num_return_sequences=3"],
        "cannot generate with the options {'num_beams': 2, 'num_return_sequences': 3}: ValueError",
    ),
    "unknown": (["--option=no_such_option=2"], "no_such_option"),
    "not a number": (["--option=num_beams=abc"], "num_beams: expected a whole number from 1"),
    "no tensor": (["--option=decoder_input_ids=[[1]]"], "expected a Tensor, got list"),
    "nested": ([f"--option=a={'[' * 100_000}"], "cannot generate with the options"),
    "model": (["--device=nowhere"], "cannot be loaded: RuntimeError"),
    "output": (["--id-column=text"], "repeats"),
    "shard": (["--shard=1/2"], "shard 1/2: expected a memory budget"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_all_rows_is_one_error_of_the_run(case, bart, tmp_path, capsys) -> None:
    arguments, message = REFUSED[case]
    rows = write_rows(tmp_path / "rows.jsonl", [*ROWS, ROWS[0]])
    output = tmp_path / "out.jsonl"
    assert cli.main(["generate", str(bart), str(rows), str(output), *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("el-attention generate: ") and message in error
    assert [*tmp_path.iterdir()] == [rows]


def test_a_folder_without_a_tokenizer_is_one_error(bart, tmp_path, capsys) -> None:
    """Transformers makes one that finds nothing in any text."""
    kept = ("config.json", "generation_config.json", "model.safetensors")
    folder = shutil.copytree(
        bart, tmp_path / "model", ignore=lambda _, names: [n for n in names if n not in kept]
    )
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    assert cli.main(["generate", str(folder), str(rows), str(tmp_path / "out.jsonl")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"model {folder}: cannot be loaded" in error and "tokenizer" in error


@pytest.mark.parametrize("workers", [[], ["--workers=1"]])
def test_a_device_that_is_not_there_is_one_error(workers, bart, tmp_path, capsys) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    arguments = [str(bart), str(rows), str(tmp_path / "out.jsonl"), "--device=cuda", *workers]
    assert cli.main(["generate", *arguments]) == 1
    assert "device cuda: torch" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    ["--option=num_beams", "--option=2=3", "--shard=3/2", "--shard=0/1", "--workers=0"],
)
def test_arguments_that_mean_nothing_are_refused(arguments, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["generate", "model", "rows.jsonl", "out.jsonl", arguments])
    assert "expected" in capsys.readouterr().err


def test_a_row_that_the_model_fails_with_is_isolated(bart, tmp_path, monkeypatch) -> None:
    arguments = [str(bart), str(bart / "rows.jsonl"), "", *ARGUMENTS, "--quiet"]
    arguments[2] = str(tmp_path / "expected.jsonl")
    assert cli.main(["generate", *arguments]) == 0
    expected = read_rows(tmp_path / "expected.jsonl")
    generate = GenerationMixin.generate

    def failing(self: Any, input_ids: Any, **given: Any) -> Any:
        if input_ids.eq(tokenizer_of("bart").convert_tokens_to_ids("w16")).any():
            raise RuntimeError("no such luck")
        return generate(self, input_ids=input_ids, **given)

    monkeypatch.setattr(GenerationMixin, "generate", failing)
    arguments[2] = str(tmp_path / "out.jsonl")
    assert cli.main(["generate", *arguments]) == 0
    for row, result, whole in zip(ROWS, read_rows(tmp_path / "out.jsonl"), expected, strict=True):
        if "w16" in row["text"]:
            assert result["reason"] == "the model fails with it: RuntimeError: no such luck"
        else:
            assert result["hypotheses"] == whole["hypotheses"]


def test_batches_hold_no_more_rows_than_help(bart, monkeypatch) -> None:
    monkeypatch.setattr(engine, "LARGEST_BATCH", 4)
    texts = {place: row["text"] for place, row in enumerate(ROWS[:9])}
    loaded = engine.Engine(Recipe(str(bart), {"max_new_tokens": 3}, device="cpu"))
    batches, reasons = loaded.fix(texts, 10**9)
    assert [len(batch) for batch in batches] == [3, 3, 3] and not reasons
    lengths = [len(tokens) for batch in batches for tokens in batch.values()]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
    recipe = Recipe(str(bart), {"max_new_tokens": 3}, device="cpu", batch_size=9)
    (whole,), _ = engine.Engine(recipe).fix(texts, 10**9)
    assert len(whole) == 9


def test_a_generator_is_pickled_without_its_model(bart) -> None:
    generator = Generator(Recipe(str(bart), OPTIONS, device="cpu"))
    texts = [row["text"] for row in ROWS]
    block = {"key": list(range(len(texts) + 2)), "text": [*texts, None, texts[0]]}
    found = generator(block)
    assert [*found] == ["key", "text", "hypotheses", "scores", "reason"]
    assert found["key"] is block["key"]
    copy = pickle.dumps(generator)
    assert len(copy) < 1000
    assert pickle.loads(copy)(block) == found
    (bart / "name").write_text("bart")
    for result, row in zip(alone(bart), range(len(texts)), strict=True):
        assert found["hypotheses"][row] == result["hypotheses"]
        assert found["scores"][row] == result["scores"]
    assert found["reason"] == [""] * len(texts) + ["expected a text, got NoneType", ""]
    assert found["scores"][-2] == []
    assert found["hypotheses"][-1] == found["hypotheses"][0]
    with pytest.raises(KeyError, match="expected a column 'text', there are"):
        generator({"txt": texts})


def test_what_is_drawn_for_a_text_depends_on_no_other(bart) -> None:
    options = {"do_sample": True, "max_new_tokens": 6}
    generator = Generator(Recipe(str(bart), options, device="cpu"), "words")
    texts = np.array([row["text"] for row in ROWS[:4]])
    whole = generator({"words": texts})["hypotheses"]
    assert generator({"words": texts[2:]})["hypotheses"] == whole[2:]
    assert len({str(text) for text in whole}) == 4


@pytest.mark.slow
def test_a_run_survives_a_hundred_kills(bart, tmp_path) -> None:
    rows = [{**row, "key": f"{row['key']} {number}"} for number in range(5) for row in ROWS]
    source = Source(write_rows(tmp_path / "rows.jsonl", rows), id_column="key")
    recipe = Recipe(str(bart), OPTIONS, device="cpu")
    output = tmp_path / "out.jsonl"

    def work() -> None:
        generate(recipe, source, output, memory_budget=40_000)

    work()
    expected = output.read_bytes()
    generator, kills, ends = random.Random(3), 0, 0
    while kills < 100:
        if output.exists():
            assert output.read_bytes() == expected
            ends += 1
            output.unlink()
            shutil.rmtree(folder_of(output))
        process = forked(work)
        time.sleep(generator.uniform(0, 1.5))
        os.kill(process, signal.SIGKILL)
        kills += os.waitpid(process, 0)[1] == signal.SIGKILL
    work()
    assert output.read_bytes() == expected and ends > 0


def command(folder: Path, output: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "el_attention", "generate", str(folder)),
        *(str(folder / "rows.jsonl"), str(output), *ARGUMENTS, "--memory-budget=40kB", *arguments),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--workers=2"]])
def test_a_command_that_is_killed_at_random_times_ends_with_the_same_rows(
    arguments, bart, tmp_path
) -> None:
    write_rows(
        bart / "rows.jsonl",
        [{**row, "key": f"{row['key']} {n}"} for n in range(30) for row in ROWS],
    )
    subprocess.run(command(bart, tmp_path / "expected.jsonl"), check=True)
    generator, kills = random.Random(3), 0
    for _ in range(40):
        process = subprocess.Popen(command(bart, tmp_path / "out.jsonl", *arguments))
        try:
            status = process.wait(generator.uniform(8, 20) if kills < 5 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            status = process.wait()
            kills += 1
        if status == 0:
            break
    assert status == 0 and kills > 1
    assert read_rows(tmp_path / "out.jsonl") == read_rows(tmp_path / "expected.jsonl")


@pytest.mark.skipif(extension.unsupported is not None, reason="no compiled operators")
def test_weights_that_16_bits_hold_are_freed_for_the_rows(tmp_path):
    path = saved_model(tmp_path)
    copy.deepcopy(model_of("bart")).half().save_pretrained(path)
    loaded = engine.Engine(Recipe(str(path), OPTIONS, device="cpu", dtype="float32"))
    settings, batch = loaded.settings(), {0: loaded._model.read("a b")}
    expected = loaded.generate(batch)
    loaded.limit(10**9)
    found = loaded.generate(batch)
    freed = [part for part in loaded._model._model.modules() if isinstance(part, FreedModule)]
    assert freed and found == expected and found[0].hypotheses
    assert loaded.settings() == settings
