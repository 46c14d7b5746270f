"""scripts/research/tables: search, resumption, the systems that are compared, and the report."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import exampledata
from common import pairs, pieces
from common.acquire import Policy
from common.lines import read_lines, write_lines
from common.scores import rouge
from crossed import REST, crossed
from el_attention.cost import GIB, Workload
from exampledata import binarise, encode_for_bart
from summarization_cnn_dm import prepare as cnn_dm
from summarization_gpt2 import convert
from summarization_xsum import prepare as xsum

pytestmark = [*REST]

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
input_states = importlib.import_module("research.model").input_states
paper = importlib.import_module("research.paper_figures")
cells, measure, plots, report, search, store = (
    importlib.import_module(f"research.tables.{name}")
    for name in "cells measure plots report search store".split()
)
memory = importlib.import_module("benchmarks.memory")
load = importlib.import_module("research.tables.inputs").load
score = importlib.import_module("research.tables.quality").score
main = importlib.import_module("research.tables.__main__").main

TINY = replace(cells.SMOKE, memory=None, sentences=5)
ALL = [cell for table in cells.TABLES for cell in cells.cells(table, paper.DTYPES)]
CAPPED = [*cells.cells(cells.CAPPED, ("float32",))]


# --- search ---


@pytest.mark.parametrize("limit", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("largest", [0, 1, 2, 3, 5, 8, 31, 32, 33, 100, 999, 5000])
def test_largest_batch_is_within_the_resolution_and_fits(largest, limit) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= largest

    found = search.largest_batch(fits, limit)
    best = min(largest, limit)
    assert best - max(0, int(best * search.RESOLUTION)) <= found <= best
    assert len(set(tried)) == len(tried) <= 24
    assert all(1 <= size <= limit for size in tried)
    if best == limit:
        assert found == limit


def test_largest_batch_wants_a_limit() -> None:
    with pytest.raises(ValueError, match="expected at least 1, got 0"):
        search.largest_batch(lambda size: True, 0)


# --- cells ---


def test_every_figure_of_the_paper_has_a_cell_of_its_own() -> None:
    assert len({store.path_of(Path(), cell) for cell in ALL}) == len(set(ALL)) == len(ALL)
    rows = {(cell.arch, cell.task, cell.search) for cell in ALL if cell.batch is None}
    assert rows == {(row.arch.name, row.task.name, row.search) for row in paper.SPEEDS}
    of_table = {table: {cell for cell in ALL if cell.table == table} for table in cells.TABLES}
    states = {(cell.batch, cell.source) for cell in of_table["memory"]}
    assert states == set(paper.INPUT_STATES)
    batches = {cell.batch for cell in of_table["batch_size"]}
    assert batches == set(paper.BATCHES[0][1])


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'no such'"):
        list(cells.cells("no such", ("float32",)))


@pytest.mark.parametrize("cell", ALL[::7], ids=lambda cell: cell.name)
def test_the_full_profile_has_the_sizes_of_the_paper(cell) -> None:
    settings = cells.Job(cell, cells.FULL).settings()
    assert settings["architecture"]["decoder"]["width"] == cell.row.arch.decoder.width
    assert settings["task"]["limit"] == (cell.source or cell.row.task.limit)
    assert settings["batch"] == cell.batch
    beam = 1 if cell.search == "greedy" else cell.row.task.beam
    assert settings["generation"]["beam"] == beam


def test_each_system_is_capped_at_each_limit() -> None:
    assert {(cell.system, cell.limit) for cell in CAPPED} == {
        (system, limit) for system in cells.SYSTEMS for limit in cells.LIMITS
    }
    assert len({store.path_of(Path(), cell) for cell in CAPPED}) == len(CAPPED)
    for cell in CAPPED:
        assert cells.Job(cell, cells.SHORT).settings()["memory"] == cell.limit
        assert 2**20 < cells.Job(cell, cells.SMOKE).settings()["memory"] < 2**23


# --- resumption ---


def job(number: int, **changes: Any) -> Any:
    return cells.Job(ALL[number], replace(TINY, **changes))


def worker(done: list[Any], broken: tuple[Any, ...] = ()) -> Any:
    def work(one: Any) -> dict[str, Any]:
        done.append(one)
        result = {"settings": one.settings(), "status": measure.OUT_OF_MEMORY}
        return {**result, "status": store.FAILED, "message": "why"} if one in broken else result

    return work


def test_finished_cells_are_kept_and_failed_ones_tried_again(tmp_path, capsys) -> None:
    jobs = [job(0), job(1), job(2)]
    done: list[Any] = []
    assert store.run(tmp_path, jobs, worker(done, (jobs[1],))) == [jobs[1].cell]
    assert done == jobs
    assert "failed\nwhy" in capsys.readouterr().out
    assert store.run(tmp_path, jobs, worker(done)) == []
    assert done == [*jobs, jobs[1]]
    assert store.run(tmp_path, jobs, worker(done)) == []
    assert len(done) == 4
    store.run(tmp_path, jobs, worker(done), again=True)
    assert len(done) == 7


@pytest.mark.parametrize(
    "changes", [{"memory": 1e6}, {"sentences": 6}, {"shrink": {}}, {"device": "cuda"}]
)
def test_a_result_of_other_settings_is_measured_again(changes, tmp_path) -> None:
    done: list[Any] = []
    store.run(tmp_path, [job(0)], worker(done))
    store.run(tmp_path, [job(0, **changes)], worker(done))
    assert len(done) == 2


def test_an_interruption_leaves_no_half_of_a_result(tmp_path) -> None:
    def work(one: Any) -> dict[str, Any]:
        if one == job(1):
            raise KeyboardInterrupt
        return worker([])(one)

    with pytest.raises(KeyboardInterrupt):
        store.run(tmp_path, [job(0), job(1)], work)
    assert store.read(tmp_path, ALL[0]) is not None
    assert store.read(tmp_path, ALL[1]) is None


def test_a_broken_file_is_named(tmp_path) -> None:
    store.write(tmp_path, ALL[0], {})
    store.path_of(tmp_path, ALL[0]).write_text("{")
    with pytest.raises(ValueError, match=re.escape(f"{ALL[0].name}.json: expected JSON")):
        store.read(tmp_path, ALL[0])


# --- memory ---


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected) -> None:
    if not expected:
        with pytest.raises(type(error)), memory.may_run_out():
            raise error
        return
    with memory.may_run_out() as outcome:
        raise error
    assert outcome.ran_out


# --- systems ---


def measured(cell: Any) -> dict[str, Any]:
    with torch.random.fork_rng():
        return json.loads(json.dumps(measure.measure(cells.Job(cell, TINY))))


STATES = [cell for cell in cells.cells("memory", ("float32",)) if cell.name.count("-64-1024-")]


@pytest.mark.parametrize("cell", STATES, ids=lambda cell: cell.system)
def test_counted_input_states_are_those_of_the_formula(cell) -> None:
    result = measured(cell)
    task, batch = TINY.task(cell), TINY.batch(cell)
    load = Workload("float32", batch, task.beam, task.limit, 0, 1)
    modelled = report.MODELLED[cell.system]
    assert result["input_state_bytes"] == input_states(TINY.architecture(cell), modelled, load)
    assert result["state_bytes"] >= result["input_state_bytes"] > 0


@pytest.mark.parametrize(
    ("table", "arch"),
    crossed(
        [
            ("beam", "transformer"),
            ("diverse_beam", "bart.large"),
            ("greedy", "bart.large"),
            ("beam", "gpt-2.small"),
            ("batch_size", "bart.large"),
        ]
    ),
)
def test_all_systems_give_the_same_hypotheses(table, arch) -> None:
    wanted = [
        cell
        for cell in cells.cells(table, ("float32",))
        if cell.arch == arch and cell.task != "XSum" and cell.batch in (None, 64)
    ]
    results = {cell.system: measured(cell) for cell in wanted}
    assert results.keys() >= {cells.STOCK, *plans()}
    stock = [tokens for _, *tokens in results[cells.STOCK]["hypotheses"]]
    assert len(stock) == TINY.sentences and len(set(map(tuple, stock))) > 3
    for system, result in results.items():
        assert [tokens for _, *tokens in result["hypotheses"]] == stock, system
        assert result["samples_per_second"] > 0
        assert result["bounded"] is (table != "batch_size")
        if table == "batch_size":
            assert result["batch"] == 64 // TINY.shrink["batch"]
            assert min(result["parts"].values()) > 0
            assert ("reordering" in result["parts"]) and ("encoder" in result["parts"])


def test_batches_grow_with_the_same_hypotheses_in_all_systems() -> None:
    results = {cell.system: measured(replace(cell, limit=None)) for cell in CAPPED[:4]}
    stock = [tokens for _, *tokens in results[cells.STOCK]["hypotheses"]]
    assert len(stock) == 4 and results.keys() == set(cells.SYSTEMS)
    for system, result in results.items():
        assert [batch["batch"] for batch in result["batches"]] == [1, 2, 4]  # of 5 sentences
        assert [tokens for _, *tokens in result["hypotheses"]] == stock, system


@pytest.mark.parametrize(("fitting", "batches"), [(3, [1, 2]), (1, [1]), (0, None)])
def test_batches_grow_until_memory_runs_out(fitting, batches, monkeypatch) -> None:
    longest = measure._Run.longest
    loaded: list[int] = []

    def limited(self: Any, batch: int) -> Any:
        if loaded and batch > fitting:
            raise MemoryError
        loaded.append(batch)  # the first is to warm up
        return longest(self, batch)

    monkeypatch.setattr(measure._Run, "longest", limited)
    result = measured(replace(CAPPED[1], limit=None))
    if batches is None:
        assert result["status"] == measure.OUT_OF_MEMORY and "batches" not in result
        return
    assert [batch["batch"] for batch in result["batches"]] == batches
    assert len(result["hypotheses"]) == batches[-1]


def plans() -> tuple[str, ...]:
    return report.EXPANDED, report.SHARED


@pytest.mark.parametrize(
    ("checkpoint", "data", "system"),
    [
        ("transformer", "pair", report.EXPANDED),
        ("lm", "text", report.SHARED),
        ("transformer", "pair", cells.PER_BEAM),
    ],
)
def test_a_checkpoint_generates_from_its_test_split(checkpoint, data, system, workspace) -> None:
    arch = "gpt-2.small" if checkpoint == "lm" else "transformer"
    profile = replace(TINY, shrink={**TINY.shrink, "source": 40, "target": 20}, sentences=7)
    source = cells.Source(workspace.checkpoint(checkpoint), str(workspace.root / data))
    found = {}
    for cell in cells.cells("beam", ("float32",)):
        if cell.arch == arch and cell.system in (cells.STOCK, system):
            result = measure.measure(cells.Job(cell, profile, source))
            found[cell.system] = [tokens for _, *tokens in result["hypotheses"]]
            assert result["settings"]["source"] == asdict(source)
    assert found[system] == found[cells.STOCK]
    assert len(found[system]) == 7 and len(set(map(tuple, found[system]))) > 1


@pytest.mark.parametrize(
    ("arch", "checkpoint"), [("transformer", "lm"), ("gpt-2.small", "smaller")]
)
def test_a_checkpoint_of_another_kind_is_refused(arch, checkpoint, workspace) -> None:
    source = cells.Source(workspace.checkpoint(checkpoint), str(workspace.root / "pair"))
    cell = next(cell for cell in cells.cells("beam", ("float32",)) if cell.arch == arch)
    with pytest.raises(ValueError, match="model, got"):
        measure.measure(cells.Job(cell, TINY, source))


def prepared_bart(folder: Path) -> Any:
    """What examples/summarization_xsum makes of tiny data and a tiny BART."""
    exampledata.write_xsum(folder / "published")
    exampledata.write_bart(folder / "model")
    found = xsum.pairs(folder / "published", Policy(unverified=True))
    pairs.write_pairs(found, folder / "data", xsum.PAIRS, Policy(unverified=True))
    encode_for_bart(folder, folder / "model")
    return cells.Source(
        str(folder / "model" / "model.pt"),
        str(folder / "binary"),
        f"gpt2={folder / 'model'}",
        str(folder / "data" / "test.target"),
    )


def prepared_gpt2(folder: Path) -> Any:
    """What examples/summarization_gpt2 makes of tiny data and a tiny GPT-2: long prompts."""
    exampledata.write_cnn_dm(folder / "published")
    found = cnn_dm.pairs(folder / "published", Policy(unverified=True))
    pairs.write_pairs(found, folder / "data", cnn_dm.PAIRS, Policy(unverified=True))
    exampledata.write_gpt2(folder / "gpt2", n_positions=128)
    model = folder / "model"
    convert.convert(folder / "gpt2", model)
    bpe = pieces.load_bpe(model)
    prompts = [
        pieces.encode_line(bpe, line, 60, end="\nTL;DR:")
        for line in read_lines(folder / "data" / "test.source")
    ]
    write_lines(folder / "prompts", prompts)
    dictionary = ["--srcdict", model / "dict.txt", "--destdir", folder / "binary"]
    binarise("--only-source", "--testpref", folder / "prompts", *dictionary)
    return cells.Source(
        str(model / "model.pt"),
        str(folder / "binary"),
        f"gpt2={model}",
        str(folder / "data" / "test.target"),
    )


@pytest.mark.parametrize(
    ("arch", "task", "prepare"),
    [("bart.large", "XSum", prepared_bart), ("gpt-2.small", "CNN/DM", prepared_gpt2)],
)
def test_the_data_of_the_examples_feed_the_tables(arch, task, prepare, tmp_path) -> None:
    source = prepare(tmp_path)
    count = exampledata.SPLIT_SIZES["test"]
    results = {}
    for cell in cells.cells("beam", ("float32",)):
        if (cell.arch, cell.task) == (arch, task):
            results[cell.system] = measure.measure(cells.Job(cell, TINY, source))
    stock = results[cells.STOCK]
    for system, result in results.items():
        assert [words for _, *words in result["hypotheses"]] == [
            words for _, *words in stock["hypotheses"]
        ], system
        assert result["scores"] == stock["scores"]
    assert list(stock["scores"]) == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    inputs = load(cells.Job(cell_of(arch, task), replace(TINY, sentences=count), source))
    assert sorted(inputs.references) == sorted(read_lines(Path(source.references)))
    symbols = inputs.task.source_dictionary
    decode = pieces.decoder(source.pieces)
    texts = [decode(symbols.string(words)) for words in inputs.sources]
    if arch == "bart.large":
        # The first token is given, and no part of the text.
        assert all(first == symbols.bos() for _, first, *_ in stock["hypotheses"])
        assert all(words[0] == symbols.bos() for words in inputs.sources)
        return
    # Cut to the limit of the cell, but not the cue.
    limit = TINY.task(cell_of(arch, task)).limit
    assert max(map(len, inputs.sources)) == limit < 60
    assert all(text.endswith("\nTL;DR:") for text in texts)


def cell_of(arch: str, task: str) -> Any:
    """A cell of the beam-search table."""
    found = cells.cells("beam", ("float32",))
    return next(cell for cell in found if (cell.arch, cell.task) == (arch, task))


def test_scores_are_of_the_right_references_without_prompts(tmp_path) -> None:
    source = prepared_gpt2(tmp_path)
    job = cells.Job(cell_of("gpt-2.small", "CNN/DM"), replace(TINY, sentences=6), source)
    inputs = load(job)
    bpe, symbols = pieces.load_bpe(tmp_path / "model"), inputs.task.target_dictionary
    expected = [reference.replace(".", "") + ". B. C." for reference in inputs.references]
    summaries = [
        symbols.encode_line(
            pieces.encode_line(bpe, f"{summary} not counted", 999),
            append_eos=True,
            add_if_not_exist=False,
        ).long()
        for summary in expected
    ]
    hypotheses = [
        torch.cat([prompt, summary])
        for prompt, summary in zip(inputs.sources, summaries, strict=True)
    ]
    assert score(inputs, hypotheses, source.pieces) == rouge(expected, inputs.references)


def test_references_of_another_number_are_refused(tmp_path) -> None:
    source = prepared_bart(tmp_path)
    write_lines(Path(source.references), ["one"])
    with pytest.raises(ValueError, match="a line for each of 6 sentences, got 1"):
        load(cells.Job(cell_of("bart.large", "XSum"), TINY, source))


# --- report ---


def fake(cell: Any, profile: Any = cells.FULL) -> dict[str, Any]:
    """A result as it could have been measured: EL is faster, one hypothesis of it differs."""
    settings = cells.Job(cell, profile).settings()
    result = {
        "settings": settings,
        "machine": {"GPU": "<none>", "torch": "9.9"},
        "date": "2026-01-02T03:04:05+00:00",
        "status": measure.OUT_OF_MEMORY,
    }
    el = cell.system in plans()
    if cell.batch is not None and cell.batch > 64 and not el:
        return result
    result |= {"status": measure.MEASURED, "batch": cell.batch or 96, "peak_bytes": 3 * GIB}
    if cell.table == "memory":
        return result | {"input_state_bytes": 12 * GIB, "state_bytes": 13 * GIB}
    hypotheses = [[-1.0, 5, 6, 2], [-2.0, 7, 2]]
    if cell.system == report.EXPANDED:
        hypotheses[1] = [-2.00002, 8, 2]
        result["scores"] = {"ROUGE-1": 25.126, "ROUGE-2": 8.0}
    parts = {"encoder": 0.5, "search": 0.25}
    speed = 30.0 if el else 10.0
    return result | {
        "samples_per_second": speed,
        "seconds": [2 / speed],
        "sentences": 2,
        "bounded": el and cell.batch is None,
        "hypotheses": hypotheses,
        **({} if cell.batch is None else {"parts": parts}),
    }


@pytest.fixture
def results(tmp_path) -> Path:
    for table in cells.TABLES:
        dtypes = paper.DTYPES if table in cells.SEARCHES else ("float16",)
        for cell in cells.cells(table, dtypes):
            store.write(tmp_path, cell, fake(cell))
    return tmp_path


DIFFERING = ["1 of 2 (1e-05)", "25.13 / 8.00"]


def row_of(text: str, *words: str) -> list[str]:
    """The cells of the only row that begins with `words`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {' | '.join(words)} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("table", "row", "expected"),
    [
        (
            "beam",
            ["bart.large", "CNN/DM", "float16", report.LABELS[cells.PER_BEAM]],
            ["96", "10.0", "5.7", "", "", "1.00", "3.00 GiB", "0 of 2", ""],
        ),
        (
            "beam",
            ["bart.large", "CNN/DM", "float32", report.LABELS[report.EXPANDED]],
            [
                "≥ 96",
                "30.0",
                "12.2",
                "3.00",
                "3.6",
                "3.00",
                "3.00 GiB",
                "1 of 2 (1e-05)",
                "25.13 / 8.00",
            ],
        ),
        (
            "greedy",
            ["gpt-2.small", "CNN/DM", "float16", report.LABELS[cells.STOCK]],
            ["96", "10.0", "14.7", "", "", "", "3.00 GiB", "", ""],
        ),
        (
            "batch_size",
            [report.LABELS[cells.NO_CACHE], "128"],
            ["out of memory", "128", "out of memory", "", "", ""],
        ),
        (
            "batch_size",
            [report.LABELS[report.EXPANDED], "320"],
            ["30.0", "320", "28.6", "3.00 GiB", *DIFFERING],
        ),
        (
            "memory",
            [report.LABELS[cells.PER_BEAM], "64", "1024"],
            ["12.00 GiB", "12.00 GiB", "64 x 1024", "12 GB", "13.00 GiB"],
        ),
        (
            "memory",
            [report.LABELS[cells.STOCK], "320", "256"],
            ["out of memory", "3.75 GiB", "320 x 256", "", ""],
        ),
    ],
)
def test_measured_and_published_stand_side_by_side(results, table, row, expected) -> None:
    text = report.markdown(report.sections(results, [table]))
    assert row_of(text, *row)[len(row) :] == expected


def grown(cell: Any, largest: int) -> dict[str, Any]:
    """A result of batches up to one, of 0.5 samples/s for each sentence."""
    result = {key: fake(cell)[key] for key in ("settings", "machine", "date", "status")}
    if not largest:
        return {**result, "status": measure.OUT_OF_MEMORY}
    sizes = [2**power for power in range(largest.bit_length())]
    batches = [{"batch": n, "samples_per_second": n / 2, "peak_bytes": n * GIB} for n in sizes]
    hypotheses = [[-1.0, 5, 2]] * largest
    return {**result, "status": measure.MEASURED, "batches": batches, "hypotheses": hypotheses}


def test_a_row_for_each_batch_up_to_one_that_fits_nowhere(tmp_path) -> None:
    for cell, largest in zip(CAPPED, [0, 2, 4, 1, 1024, 2, 4, 1], strict=True):
        store.write(tmp_path, cell, grown(cell, largest))
    text = report.markdown(report.sections(tmp_path))
    gone = "out of memory"
    low, high = "512.00 MiB", "1.00 GiB"
    assert row_of(text, low, "2")[2:] == [gone, "1.00", "1.00", gone]
    assert row_of(text, low, "8")[2:] == [gone] * 4
    assert f"| {low} | 16 |" not in text
    assert row_of(text, low, "peak of the largest")[2:] == ["", "2.00 GiB", "4.00 GiB", "1.00 GiB"]
    assert row_of(text, low, "differing")[2:] == ["", "", "0 of 2", "0 of 1"]
    assert row_of(text, high, "1024")[2:] == ["512.00", gone, gone, gone]
    assert f"| {high} | 2048 |" not in text  # there are but 1024 sentences


def test_the_page_needs_no_other_file_and_escapes(results) -> None:
    report.write(results)
    html = (results / "report.html").read_text()
    assert "&lt;none&gt;" in html and "<none>" not in html
    assert not re.search(r'(src|href)="(?!data:|#)', html) and "url(" not in html
    assert html.count("<table>") == html.count("<h2") == len(cells.TABLES)
    assert (results / "report.md").read_text().count("\n## ") == len(cells.TABLES)


def test_without_matplotlib_the_tables_are_written_and_the_reason_is_said(
    results, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(plots, "is_possible", lambda: False)
    written = report.write(results)
    assert [path.name for path in written] == ["report.md", "report.html"]
    assert "pip install matplotlib" in capsys.readouterr().err


def test_plots_are_png_and_linked(results) -> None:
    pytest.importorskip("matplotlib")
    written = report.write(results)
    images = [path for path in written if path.suffix == ".png"]
    assert len(images) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in images)
    text = (results / "report.md").read_text()
    assert all(f"![{path.name}]({path.name})" in text for path in images)
    assert (results / "report.html").read_text().count("data:image/png") == 3


def test_failures_are_reported(results) -> None:
    cell = next(cells.cells("beam", ("float16",)))
    store.write(results, cell, {"settings": {}, "status": store.FAILED, "message": "why"})
    text = report.markdown(report.sections(results, ["beam"]))
    assert row_of(text, cell.arch, cell.task, cell.dtype, report.LABELS[cell.system])[5] == "failed"
    assert "1 cells failed: their files have the message." in report.provenance(results)


def test_an_empty_folder_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="expected results"):
        report.write(tmp_path)


def test_inputs_of_unknown_tasks_are_refused(tmp_path) -> None:
    arguments = ["--results", str(tmp_path), "--input", "bart.large", "SQuAD", "a.pt", "data"]
    with pytest.raises(SystemExit, match="expected a model and task of"):
        main(["run", "beam", *arguments])


def test_references_without_an_input_are_refused(tmp_path) -> None:
    arguments = ["--results", str(tmp_path), "--references", "bart.large", "XSum", "a", "b"]
    with pytest.raises(SystemExit, match=r"an --input of bart\.large XSum, found none"):
        main(["run", "beam", *arguments])


def test_a_batch_of_more_than_all_sentences_is_refused() -> None:
    cell = next(cell for cell in cells.cells("batch_size", ("float32",)) if cell.batch == 320)
    with pytest.raises(ValueError, match="at least the batch, 20, got 5"):
        measure.measure(cells.Job(cell, TINY))


# --- all of it, in processes of their own ---


@pytest.mark.slow
def test_a_script_prints_its_table_and_resumes(tmp_path) -> None:
    def run(*options: str) -> list[str]:
        command = [
            str(SCRIPTS / "research" / "tables" / "memory.sh"),
            "--results",
            str(tmp_path),
            *options,
        ]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        output = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert output.returncode == 0, output.stderr
        return output.stdout.splitlines()

    first, second = run(), run()
    assert sum("of input states (" in line for line in first) >= 20
    assert sum(line.endswith(": kept") for line in second) == 24
    rows = [line.split(" | ") for line in first if line.startswith(("| multi-head", "| EL"))]
    assert len(rows) == 24 and all(row[3] in (row[4], "out of memory") for row in rows)
    assert [line for line in second if line.startswith("|")] == [
        line for line in first if line.startswith("|")
    ]


@pytest.mark.slow
def test_cells_run_out_of_memory_and_fail_on_their_own(tmp_path) -> None:
    group = list(itertools.islice(cells.cells("beam", ("float32",)), 8, 11))
    limited = replace(TINY, sentences=24, memory=cells.SMOKE.memory)
    per_beam, stock, el = (cells.Job(cell, limited) for cell in group)
    batches = cells.cells("batch_size", ("float32",))
    large = next(c for c in batches if (c.system, c.batch) == (cells.PER_BEAM, 320))
    absent = replace(stock, source=cells.Source("no/such/checkpoint.pt", "no/such/data"))
    tight, whole = store.in_own_process(cells.Job(large, limited)), store.in_own_process(per_beam)
    failed, other = store.in_own_process(absent), store.in_own_process(el)
    assert tight["status"] == measure.OUT_OF_MEMORY
    assert 1 <= whole["batch"] < other["batch"]
    assert failed["status"] == store.FAILED and "no/such" in failed["message"]


@pytest.mark.slow
def test_capped_batches_grow_further_with_shared_states(tmp_path) -> None:
    """2 and 16 in 7 MiB, of which a process may have 2 to spare: sources are long for that."""
    profile = replace(cells.SMOKE, shrink={**cells.SMOKE.shrink, "source": 4})
    limit = 7 * 2**20 * profile.shrink["limit"]
    most = {}
    for cell in CAPPED[:4]:
        if cell.system in (cells.PER_BEAM, report.EXPANDED):
            result = store.in_own_process(cells.Job(replace(cell, limit=limit), profile))
            most[cell.system] = result["batches"][-1]["batch"]
    assert 1 <= most[cells.PER_BEAM] < most[report.EXPANDED]
