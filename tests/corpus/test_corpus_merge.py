"""Shards are merged if each row is in one of them, and else an error names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpora import ROWS, Echo, write_rows
from el_attention.corpus import Recipe, Shard, Source, generate, merge, run


def shard(folder: Path, number: int, of: int, name: str = "", **options: Any) -> Path:
    source = Source(write_rows(folder / "rows.jsonl", ROWS), id_column="key")
    path = folder / f"{name}{number}.jsonl"
    recipe = Recipe("model", options)
    generate(recipe, source, path, shard=Shard(number, of), memory_budget=9)
    return path


@pytest.fixture
def shards(tmp_path, monkeypatch) -> list[Path]:
    """Two shards of a corpus."""
    monkeypatch.setattr(run, "Engine", Echo)
    return [shard(tmp_path, number, 2) for number in (1, 2)]


def lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def line_of(path: Path, key: str) -> int:
    found = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    return found.index(key)


def test_missing_rows_are_named(shards, tmp_path) -> None:
    lines(shards[0], lambda found: found[1:])
    with pytest.raises(ValueError, match=r"each row once: 'r\d+' are in no shard"):
        merge(tmp_path / "rows.jsonl", shards, tmp_path / "out.jsonl")
    lines(shards[1], lambda found: [])
    with pytest.raises(ValueError, match=r"each row once: 'r\d+', .* and \d+ more are in no shard"):
        merge(tmp_path / "rows.jsonl", shards, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_repeated_rows_are_named(shards, tmp_path) -> None:
    extra = shards[0].read_text().splitlines(keepends=True)[0]
    lines(shards[1], lambda found: [*found, extra])
    with pytest.raises(ValueError, match=r"each row once: 'r\d+' are in several shards or places"):
        merge(tmp_path / "rows.jsonl", shards, tmp_path / "out.jsonl")


def test_rows_of_another_corpus_are_named(shards, tmp_path) -> None:
    lines(shards[1], lambda found: [*found, found[0].replace(': "r', ': "other', 1)])
    with pytest.raises(ValueError, match=r"each row once: 'other\d+' are not of this corpus"):
        merge(tmp_path / "rows.jsonl", shards, tmp_path / "out.jsonl")


def test_a_shard_in_another_order_is_refused(shards, tmp_path) -> None:
    lines(shards[0], lambda found: found[::-1])
    with pytest.raises(ValueError, match="a shard is not in the order of the corpus"):
        merge(tmp_path / "rows.jsonl", shards, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_missing_and_repeated_shards_are_named(shards, tmp_path) -> None:
    corpus, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="expected all shards, missing are '2/2'"):
        merge(corpus, shards[:1], output)
    again = shard(tmp_path, 1, 2, "again")
    with pytest.raises(ValueError, match=r"shard 1/2 is there twice: .*1\.jsonl and .*again1"):
        merge(corpus, [*shards, again], output)
    third = shard(tmp_path, 3, 3)
    with pytest.raises(ValueError, match="shards of one number of shards, got 1/2, 2/2, 3/3"):
        merge(corpus, [*shards, third], output)
    with pytest.raises(OSError, match="expected a file; is its run finished"):
        merge(corpus, [*shards, tmp_path / "none.jsonl"], output)


def test_shards_of_different_runs_are_refused(shards, tmp_path) -> None:
    other = shard(tmp_path, 2, 2, "other", num_beams="3")
    with pytest.raises(ValueError, match="different runs: num_beams was None there and is '3' her"):
        merge(tmp_path / "rows.jsonl", [shards[0], other], tmp_path / "out.jsonl")


def test_another_corpus_and_an_output_that_exists_are_refused(shards, tmp_path) -> None:
    other = write_rows(tmp_path / "other.jsonl", ROWS[:-1])
    with pytest.raises(ValueError, match=r"other\.jsonl: is not the one that the shards were gen"):
        merge(other, shards, tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match=r"1\.jsonl: it exists; give another name"):
        merge(tmp_path / "rows.jsonl", shards, shards[0])
