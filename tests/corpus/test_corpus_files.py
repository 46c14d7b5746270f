"""Rows in, results out: a row is known by its id or number; a file is whole or not there."""

from __future__ import annotations

import errno
import gzip
import math
import os
import sys
from typing import Any

import pytest

from corpora import write_rows
from el_attention.corpus.results import Result, check_output, read, write
from el_attention.corpus.source import Row, Source

RESULTS = [
    Result("a", ["one", "two"], [-0.5, -1.25], None),
    Result(None, [], None, "row 2 is no JSON: ..."),
    Result("é", ["\u2028"], None, None),
]


def test_lines_of_text_are_numbered_and_broken_ones_named(tmp_path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"first\r\n\n\xff\xfe\nlast \xe2\x80\xa8 one")
    rows = list(Source(path).rows())
    assert [row.id for row in rows] == [1, 2, 3, 4]
    assert [row.text for row in rows] == ["first", "", None, "last \u2028 one"]
    assert [row.reason for row in rows] == [None, None, "row 3 is not UTF-8", None]
    assert Source(path).contents()[0] == 4


LINES: dict[str, tuple[Any, str | int | None, object, str | None]] = {
    "good": ({"key": "b", "text": "x", "more": 1}, "b", "x", None),
    "number": ({"key": 7, "text": None}, 7, None, None),
    "no text": ({"key": "c"}, "c", None, "row 1: expected a column 'text', there are ['key']"),
    "no id": ({"text": "x"}, None, "x", "row 1: expected an id in column 'key', got NoneType"),
    "bool": ({"key": True, "text": "x"}, None, "x", "row 1: expected an id in column 'key', got b"),
    "least": ({"key": -(2**63), "text": "x"}, -(2**63), "x", None),
    "large": ({"key": 2**63, "text": "x"}, None, "x", "row 1: expected an id in column 'key', got"),
    "half": ('{"key": "\\ud800", "text": "x"}', None, "x", "row 1: expected an id"),
    "broken": ('{"key": "d", "te', None, None, "row 1 is no JSON: Unterminated"),
    "deep": ("[" * 100_000, None, None, "row 1 is no JSON: "),
    "blank": ("", None, None, "row 1 is no JSON: "),
    "list": ([1], None, None, "row 1 is no object of JSON: list"),
}


@pytest.mark.parametrize("line", LINES)
def test_objects_of_json_give_rows_or_reasons(line, tmp_path) -> None:
    given, name, text, reason = LINES[line]
    (row,) = Source(write_rows(tmp_path / "rows.jsonl", [given]), id_column="key").rows()
    assert (row.place, row.id, row.text) == (0, name, text)
    assert (row.reason is None) == (reason is None)
    assert reason is None or str(row.reason).startswith(reason)


def test_ids_that_repeat_are_named(tmp_path) -> None:
    rows = [{"key": key, "text": "x"} for key in ("a", 1, "b", "a", "1", "a")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"each id once, column 'key' repeats 'a', '1'$"):
        Source(path, id_column="key").contents()
    assert Source(path).contents().rows == 6


def test_a_column_that_is_nowhere_is_an_error(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"key": 1, "text": "x"}] * 3)
    with pytest.raises(ValueError, match=r"no row has a text; the first: .* column 'txt', there"):
        Source(path, "txt").contents()
    with pytest.raises(ValueError, match=r"no row has a text; the first: .* 'key' holds a int"):
        Source(path, "key").contents()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_results_are_read_as_they_were_written(suffix, tmp_path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="of the extra `parquet`", exc_type=ImportError)
    path = tmp_path / f"results{suffix}"
    assert write(path, iter(RESULTS), whole_ids=False) == 3
    assert list(read(path)) == RESULTS
    whole = [Result(number, ["x"], None, None) for number in range(2000)]
    write(path, whole, whole_ids=True)
    assert list(read(path)) == whole


def test_parquet_is_read_as_json_lines_are(tmp_path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="of the extra `parquet`", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    table = arrow.table({"key": ["a", None, "c"], "text": ["x", "y", None], "other": [1, 2, 3]})
    parquet.write_table(table, path, row_group_size=2)
    assert list(Source(path, id_column="key").rows()) == [
        Row(0, "a", "x"),
        Row(1, None, "y", "row 2: expected an id in column 'key', got NoneType"),
        Row(2, "c", None),
    ]
    with pytest.raises(ValueError, match=r"rows\.parquet: expected a column 'txt', there are \["):
        list(Source(path, "txt").rows())
    texts = arrow.array([b"x", b"\xff", b"z"])
    texts = arrow.Array.from_buffers(arrow.string(), 3, texts.buffers())
    parquet.write_table(arrow.table({"text": texts}), path)
    assert list(Source(path).rows()) == [
        Row(0, 1, "x"),
        Row(1, 2, None, "row 2 is not UTF-8"),
        Row(2, 3, "z"),
    ]
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"corpus .*rows\.parquet: "):
        list(Source(path).rows())


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"Parquet needs pyarrow .*: pip install 'pyarrow<26'"):
        Source(tmp_path / "rows.parquet").contents()
    with pytest.raises(ImportError, match="pip install 'pyarrow<26'"):
        check_output(tmp_path / "out.parquet")


def test_scores_that_are_no_numbers_are_null(tmp_path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, [Result(1, ["a", "b", "c"], [-math.inf, math.nan, -1.0], None)], whole_ids=True)
    text = path.read_text()
    assert '"scores": [null, null, -1.0]' in text
    write(path, [*read(path)], whole_ids=True)
    assert path.read_text() == text


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path) -> None:
    (tmp_path / "rows.txt").write_text("\ufefffirst\n\ufeffsecond\n")
    assert [row.text for row in Source(tmp_path / "rows.txt").rows()] == ["first", "\ufeffsecond"]
    (tmp_path / "rows.jsonl").write_text('\ufeff{"text": "first"}\n')
    (row,) = Source(tmp_path / "rows.jsonl").rows()
    assert (row.text, row.reason) == ("first", None)


def test_what_is_compressed_is_no_text(tmp_path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}'))
    with pytest.raises(ValueError, match=r"gz: expected a file that is not compressed"):
        Source(tmp_path / "rows.jsonl.gz").contents()


def test_what_can_be_read_only_once_is_refused(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(OSError, match=r"pipe\.txt: expected a file, which can be read again"):
        Source(tmp_path / "pipe.txt").contents()
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        ValueError, match=r"a data set of fairseq of files test\.\*, there are \[\]"
    ):
        Source(tmp_path / "folder").contents()


def test_files_without_columns_have_no_column_of_ids(tmp_path) -> None:
    with pytest.raises(ValueError, match="for the column of ids 'key'; a file of texts has none"):
        Source(tmp_path / "rows.txt", id_column="key").contents()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("out.csv", ValueError, r"ends in \.jsonl or \.parquet"),
        ("nowhere/out.jsonl", OSError, "expected its folder"),
    ],
)
def test_outputs_are_checked_by_name(name, kind, message, tmp_path) -> None:
    with pytest.raises(kind, match=message):
        check_output(tmp_path / name)


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch) -> None:
    path = tmp_path / "results.jsonl"
    write(path, RESULTS[:1], whole_ids=False)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"results\.jsonl: cannot be written \(No space left"):
        write(path, RESULTS, whole_ids=False)
    assert list(read(path)) == RESULTS[:1]
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", '{"id": 1}', '{"id": 1, "text": "x"}'),
        '{"id": 1, "hypotheses": ["x"], "scores": 1, "reason": null}',
        '{"id": true, "hypotheses": ["x"], "scores": null, "reason": null}',
    ],
)
def test_what_holds_no_results_is_named_with_its_line(line, tmp_path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, RESULTS[:1], whole_ids=False)
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ValueError, match=r"results\.jsonl: line 2: expected a result"):
        list(read(path))
