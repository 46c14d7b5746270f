"""What a corpus is said to take: the cost model's figures for its batches, added up."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from corpora import write_rows
from el_attention import cli
from el_attention.attention import FITTED, best, candidates
from el_attention.corpus.engine import LARGEST_BATCH
from el_attention.corpus.forecast import Forecast, forecast
from el_attention.cost import ARCHITECTURES, DEVICES, Workload

ARCH, DEVICE = next(iter(ARCHITECTURES.values())), next(iter(DEVICES.values()))
LOAD = Workload("float16", 1, 4, 1, 64, 64)


def of(lengths: list[int], available: float = 2**34) -> Forecast:
    return forecast(lengths, ARCH, LOAD, DEVICE, FITTED, available)


def seconds(length: int, batch: int) -> float:
    sized = replace(LOAD, source=length, batch=batch)
    return best(candidates(ARCH, sized, DEVICE, FITTED), 2**34).seconds


def test_rows_of_one_length_take_what_their_batches_take() -> None:
    found = of([64] * (LARGEST_BATCH + 5))
    assert found.seconds == pytest.approx(seconds(64, LARGEST_BATCH) + seconds(64, 5))
    assert found.tokens == found.padded == found.in_order == 64 * found.rows


def test_rows_that_fit_alone_only_have_no_padding() -> None:
    found = of([10, 400, 30], available=1)
    assert found.padded == found.in_order == found.tokens == 440
    assert found.seconds == pytest.approx(sum(seconds(n, 1) for n in (16, 400, 32)))


def test_lengths_that_are_sorted_need_less_padding() -> None:
    generator = random.Random(1)
    found = of([generator.randint(1, 512) for _ in range(4 * LARGEST_BATCH)])
    assert found.tokens < found.padded < 1.35 * found.tokens
    assert found.in_order > 1.8 * found.tokens
    assert found.in_order == pytest.approx(512 * found.rows, rel=0.02)


def test_the_command_says_time_memory_and_padding(tmp_path, capsys) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "a " * n} for n in range(2000)] + [{}])
    arguments = ["plan", "--device=a100", f"--corpus={rows}"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "1,999 rows of 500 tokens on average, at 4 characters a token" in text
    (alone,) = re.findall(r"(\d+) s with 1 workers, ([\d.]+) rows/s each", text)
    assert float(alone[0]) == pytest.approx(1999 / float(alone[1]), abs=0.6)
    assert re.search(r"padding of sources: [\d.]+%, and [\d.]+% in the order of the file", text)
    assert text.splitlines()[-1].startswith("Every time is an estimate")


def test_a_corpus_without_texts_is_refused(tmp_path, capsys) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"words": "a"}])
    with pytest.raises(SystemExit):
        cli.main(["plan", "--device=a100", f"--corpus={rows}"])
    assert "no row has a text in 'text'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["plan", "--device=a100", f"--corpus={tmp_path}"])
    assert "expected a file of texts, got a folder" in capsys.readouterr().err
