"""A run over a corpus: every row once, in order, whatever happened before."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corpora import ROWS, TOO_LONG, Echo, forked, read_rows, write_rows
from el_attention.corpus import Recipe, Shard, Source, generate, merge, run
from el_attention.corpus.progress import Progress
from el_attention.corpus.store import folder_of


@pytest.fixture(autouse=True)
def small_windows(monkeypatch) -> None:
    """Windows of seven rows, and an engine that needs no model."""
    monkeypatch.setattr(run, "WINDOW", 7)
    monkeypatch.setattr(run, "Engine", Echo)


def generated(folder: Path, rows: Any = ROWS, name: str = "out.jsonl", **more: Any) -> Any:
    source = Source(write_rows(folder / "rows.jsonl", rows), id_column="key")
    recipe = Recipe(str(folder), more.pop("options", {}))
    return generate(recipe, source, folder / name, **more)


BAD = [
    ({"key": "long", "text": TOO_LONG}, "it is too long: 99 tokens"),
    ({"key": "empty", "text": ""}, "it is empty: nothing"),
    ({"key": "none", "text": None}, "expected a text, got NoneType"),
    ("{broken", "row 4 is no JSON: Expecting property name"),
    ({"text": "who am I?"}, "row 5: expected an id in column 'key', got NoneType"),
]


def test_rows_keep_their_order_and_bad_ones_have_a_reason(tmp_path) -> None:
    report = generated(tmp_path, [*(row for row, _ in BAD), *ROWS])
    found = read_rows(tmp_path / "out.jsonl")
    for (row, reason), result in zip(BAD, found, strict=False):
        assert result["id"] == (row.get("key") if isinstance(row, dict) else None)
        assert (result["hypotheses"], result["scores"]) == ([], None)
        assert result["reason"].startswith(reason)
    for row, result in zip(ROWS, found[len(BAD) :], strict=True):
        assert (result["id"], result["hypotheses"]) == (row["key"], [row["text"][::-1]])
        assert result["reason"] is None
    assert report.rows == len(found) and sum(report.reasons.values()) == len(BAD)
    assert "1 (it is too long), 1 (it is empty)" in str(report)
    assert "1 (is no JSON)" in str(report)


def test_a_corpus_without_rows_gives_an_output_without_rows(tmp_path) -> None:
    assert str(generated(tmp_path, [])).endswith("out.jsonl: 0 rows")
    assert read_rows(tmp_path / "out.jsonl") == []


def test_a_finished_run_is_not_repeated(tmp_path, monkeypatch) -> None:
    first = generated(tmp_path, [*ROWS, BAD[0][0]])
    assert sorted(path.name for path in folder_of(first.output).iterdir()) == ["settings"]
    monkeypatch.delattr(Echo, "generate")
    assert generated(tmp_path, [*ROWS, BAD[0][0]]) == first


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "options": ({"options": {"num_beams": 2}}, "num_beams was None there and is '2' here"),
    "rows": ({"rows": ROWS[1:]}, "rows was '"),
    "shard": ({"shard": Shard(1, 2), "memory_budget": 5}, "shard was '1/1' there and is '1/2'"),
    "memory": ({"memory_budget": 5}, "memory budget was 'free for 1 workers' there and is '5 b"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_output_of_another_run_is_refused_by_what_differs(change, tmp_path) -> None:
    generated(tmp_path)
    before = (tmp_path / "out.jsonl").read_bytes()
    arguments, message = CHANGES[change]
    with pytest.raises(ValueError, match="it is of another run: ") as error:
        generated(tmp_path, **arguments)
    assert message in str(error.value)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_an_output_of_no_known_run_is_left_as_it_is(tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    with pytest.raises(ValueError, match=r"it exists, and out\.jsonl\.run beside it does not say"):
        generated(tmp_path)
    assert output.read_text() == "mine"
    output.unlink()
    generated(tmp_path)
    output.write_text("mine")
    with pytest.raises(ValueError, match=r"its run wrote [\d,]+ bytes, now it has 4; give another"):
        generated(tmp_path)
    output.unlink()
    assert generated(tmp_path).rows == len(ROWS)


def test_two_processes_do_not_write_one_output(tmp_path, monkeypatch) -> None:
    def again(self: Echo, batch: Any) -> Any:
        generated(tmp_path)

    monkeypatch.setattr(Echo, "generate", again)
    with pytest.raises(OSError, match="another process is writing it"):
        generated(tmp_path)


def killed_at(call: int, work: Callable[[], object]) -> int:
    """Works in a child that is killed at a call that brings something to disk, if it gets there."""
    calls = 0

    def counted(function: Any) -> Any:
        def called(*arguments: Any) -> Any:
            nonlocal calls
            for step in (lambda: None, lambda: function(*arguments)):
                step()
                calls += 1
                if calls == call:
                    os.kill(os.getpid(), signal.SIGKILL)

        return called

    def dying() -> None:
        for name in ("fsync", "replace"):
            setattr(os, name, counted(getattr(os, name)))
        work()

    return os.waitstatus_to_exitcode(os.waitpid(forked(dying), 0)[1])


def test_a_run_that_is_killed_at_any_write_continues(tmp_path) -> None:
    rows = [*ROWS, BAD[0][0], BAD[3][0]]
    generated(tmp_path, rows, "expected.jsonl")
    expected = (tmp_path / "expected.jsonl").read_bytes()
    kills = 0
    for call in range(1, 200, 7):
        status = killed_at(call, lambda: generated(tmp_path, rows))
        kills += status == -signal.SIGKILL
        generated(tmp_path, rows)
        assert (tmp_path / "out.jsonl").read_bytes() == expected
        shutil.rmtree(folder_of(tmp_path / "out.jsonl"))
        (tmp_path / "out.jsonl").unlink()
        if status == 0:
            break
    assert status == 0 and kills > 3


def test_a_run_that_is_killed_again_and_again_ends(tmp_path) -> None:
    generated(tmp_path, name="expected.jsonl")
    for _ in range(20):
        # The first calls of each run are those of its beginning.
        if killed_at(9, lambda: generated(tmp_path)) == 0:
            break
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


@pytest.mark.parametrize("call", [0, 5, 12])
def test_a_full_disk_loses_nothing(call, tmp_path, monkeypatch) -> None:
    generated(tmp_path, name="expected.jsonl")
    fsync, calls = os.fsync, iter(range(1000))

    def filling(descriptor: int) -> None:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", filling)
        with pytest.raises(OSError, match="No space left on device"):
            generated(tmp_path)
    assert not (tmp_path / "out.jsonl").exists()
    generated(tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_a_corpus_that_is_changed_during_the_run_is_refused(tmp_path, monkeypatch) -> None:
    generated(tmp_path, name="expected.jsonl")
    echo = Echo.generate

    def growing(self: Echo, batch: Any) -> Any:
        with open(tmp_path / "rows.jsonl", "a") as file:
            file.write(f'{{"key": "{min(batch)}", "text": "w1"}}\n')
        return echo(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Echo, "generate", growing)
        with pytest.raises(OSError, match=r"rows\.jsonl: was changed while it was read; start the"):
            generated(tmp_path)
    assert not (tmp_path / "out.jsonl").exists()
    source = Source(tmp_path / "rows.jsonl", id_column="key")
    with pytest.raises(ValueError, match="it is of another run: rows was '"):
        generate(Recipe(str(tmp_path)), source, tmp_path / "out.jsonl")
    generated(tmp_path)  # which writes the rows as they were
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_progress_says_rate_time_and_memory_and_ignores_the_clock_on_the_wall(
    tmp_path, monkeypatch
) -> None:
    seconds = iter(range(0, 10**6, 20))
    monkeypatch.setattr(run, "Progress", partial(Progress, clock=lambda: next(seconds)))
    monkeypatch.setattr(time, "time", lambda: random.uniform(-1e9, 1e9))
    lines = io.StringIO()
    generated(tmp_path, progress=lines)
    first, *_, last = lines.getvalue().splitlines()
    assert first.startswith(f"4 of {len(ROWS)} rows, 0.2 rows/s, 70 s left, ")
    assert last.startswith(f"{len(ROWS)} of {len(ROWS)} rows, 0.1") and "left" not in last
    assert last.endswith("GiB free")


@pytest.mark.parametrize("of", [3, 5])
def test_shards_together_are_the_whole(of, tmp_path) -> None:
    rows = [*ROWS, *(row for row, _ in BAD[:3]), "{broken", {"text": "no id"}]
    budget: dict[str, Any] = {"memory_budget": 1000}
    generated(tmp_path, rows, "whole.jsonl", **budget)
    names = [f"shard{number}.jsonl" for number in range(1, of + 1)]
    sizes = []
    for number, name in enumerate(names, 1):
        sizes.append(generated(tmp_path, rows, name, shard=Shard(number, of), **budget).rows)
    assert sum(sizes) == len(rows) and max(sizes) < len(rows)
    shards = [tmp_path / name for name in reversed(names)]
    assert merge(tmp_path / "rows.jsonl", shards, tmp_path / "out.jsonl") == len(rows)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_shards_read_no_more_windows_than_they_need(tmp_path, monkeypatch) -> None:
    fixed: list[int] = []
    fix = Echo.fix

    def counted(self: Echo, texts: Any, memory_budget: int) -> Any:
        fixed.append(min(texts) // 7)
        return fix(self, texts, memory_budget)

    monkeypatch.setattr(Echo, "fix", counted)
    rows = [{**row, "key": f"{row['key']} {n}"} for n in range(2) for row in ROWS]
    for number in (1, 2):
        generated(tmp_path, rows[:35], f"{number}.jsonl", shard=Shard(number, 2), memory_budget=9)
    # Two windows for each alone, and the last one for both.
    assert fixed == [0, 2, 4, 1, 3, 4]


def test_shards_need_a_memory_budget(tmp_path) -> None:
    with pytest.raises(ValueError, match="shard 1/2: expected a memory budget, so that all shards"):
        generated(tmp_path, shard=Shard(1, 2))
