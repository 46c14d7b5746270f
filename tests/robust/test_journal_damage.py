"""A damaged journal is refused, or what is damaged is done again: never a wrong output."""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from el_attention.fairseq_plugin.recording import RecordingGenerator
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper
from el_attention.robust import journal as journal_file
from el_attention.robust.journal import MAGIC, Journal
from families import SYMBOLS, model_of
from faults import ERRORS, Memory
from tiny import Hypotheses, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SETTINGS = {"beam": "4"}
ENTRIES = {"a": 12, "b": [3], "c": "d", "e": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small journal of three records."""
    path = tmp_path / "journal"
    journal = Journal(path, SETTINGS)
    journal.add([("a", 12), ("b", [3])], moment="then")
    journal.add([("c", "d")])
    journal.add([("e", None)])
    journal.close()
    return path


def found_in(path: Path) -> dict[str, Any] | None:
    """What a journal gives back; None if it is refused."""
    try:
        journal = Journal(path, SETTINGS)
    except ValueError as error:
        assert f"journal {path}: " in str(error)
        return None
    found = {key: entry for key in ENTRIES if (entry := journal.take(key)) is not None}
    assert journal._entries.keys() <= ENTRIES.keys(), "there is an entry under another key"
    for key, entry in found.items():
        assert entry.moment == ("then" if key in "ab" else None)
    journal.close()
    return {key: entry.value for key, entry in found.items()}


def flips(whole: bytes) -> Iterator[tuple[int, bytes]]:
    for place, byte in enumerate(whole):
        for bit in range(8):
            yield place, whole[:place] + bytes([byte ^ 1 << bit]) + whole[place + 1 :]


def test_every_flipped_bit_costs_records_or_is_refused(path, caplog) -> None:
    whole = path.read_bytes()
    header = whole.index(b"\n")
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for place, damaged in flips(whole):
        path.write_bytes(damaged)
        caplog.clear()
        found = found_in(path)
        if place <= header:
            assert found is None
            assert path.read_bytes() == damaged
            continue
        assert found is not None and found.items() <= ENTRIES.items()
        assert len(found) < len(ENTRIES)
        line = 1 + sum(end < place for end in ends)
        if place != ends[-1]:  # else the last record was being written, for all one knows
            assert f"journal {path}: line {line} is damaged" in caplog.text
        # The others are all there, but for the next one where the end of a line is damaged.
        assert len(found) >= 4 - (2 if line == 2 else 1) - (place in ends)


def test_random_damage_costs_records_or_is_refused(path) -> None:
    whole = path.read_bytes()
    for seed in range(300):
        path.write_bytes(randomly_damaged(whole, random.Random(seed)))
        found = found_in(path)
        assert found is None or found.items() <= ENTRIES.items(), f"seed {seed}"


def randomly_damaged(whole: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.choices(range(len(whole) + 1), k=2))
    lines = whole.splitlines(keepends=True)
    return draw.choice(
        [
            whole[:start] + draw.randbytes(end - start) + whole[end:],
            whole[:start] + bytes(end - start) + whole[end:],
            whole[:start] + whole[end:],
            whole[:end] + whole[start:],
            lines[0] + b"".join(draw.sample(lines[1:], k=draw.randint(1, 3))),
        ]
    )


def test_records_of_another_run_are_damaged(path, tmp_path, caplog) -> None:
    other = Journal(tmp_path / "other", {"beam": "5"})
    other.add([("a", 13)])
    other.close()
    record = (tmp_path / "other").read_bytes().splitlines(keepends=True)[1]
    path.write_bytes(path.read_bytes() + record)
    assert found_in(path) == ENTRIES
    assert "line 5 is damaged (expected the checksum" in caplog.text


def test_a_damaged_header_is_fatal_and_says_so(path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"beam"', b'"baem"'))
    with pytest.raises(ValueError, match=f"journal {path}: line 1, the settings .* is damaged"):
        Journal(path, SETTINGS)


@pytest.mark.parametrize(
    "text",
    [b"[1]", b"[[],null,1]", b"[[1],null]", b"null", b'[[["a"]],null]', b"[" * 100_000, b"{", b""],
)
def test_a_record_that_is_none_is_named(path, text, caplog) -> None:
    whole = path.read_bytes()
    key = journal_file._key_of(whole.splitlines(keepends=True)[0])
    path.write_bytes(whole + journal_file._checksum(text, key) + b" " + text + b"\n")
    assert found_in(path) == ENTRIES
    assert f"journal {path}: line 5 is damaged" in caplog.text


# Writes that fail


FULL = OSError(errno.ENOSPC, "No space left on device")


class Torn:
    """A file that takes 10 bytes and fails, or fails to be cut, for each error that it is given."""

    def __init__(self, file: Any, writes: list[BaseException], cuts: list[OSError]) -> None:
        self._file, self._writes, self._cuts = file, writes, cuts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def truncate(self, size: int) -> int:
        if self._cuts:
            raise self._cuts.pop()
        return int(self._file.truncate(size))

    def write(self, data: Any) -> int:
        if self._writes:
            self._file.write(data[:10])
            raise self._writes.pop()
        return int(self._file.write(data))


@pytest.mark.parametrize(
    "error", [FULL, KeyboardInterrupt(), MemoryError(), SystemExit(1)], ids=repr
)
def test_a_torn_write_is_taken_back(path, error, monkeypatch) -> None:
    whole = path.read_bytes()
    journal = Journal(path, SETTINGS)
    monkeypatch.setattr(journal, "_file", Torn(journal._file, [error], []))
    with pytest.raises(type(error)):
        journal.add([("f", 1)])
    assert path.read_bytes() == whole
    journal.add([("f", 2)])
    journal.close()
    journal = Journal(path, SETTINGS)
    assert journal.recovered == 5
    assert journal.take("f") == (2, None, 5)


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=repr)
def test_nothing_is_written_behind_a_torn_line(path, error, monkeypatch, caplog) -> None:
    whole = path.read_bytes()
    journal = Journal(path, SETTINGS)
    cuts = [OSError(errno.EIO, "I/O error")] * 2
    monkeypatch.setattr(journal, "_file", Torn(journal._file, [error], cuts))
    with pytest.raises(type(error)):
        journal.add([("f", 1)])
    assert "nothing more is written before it can" in caplog.text
    torn = path.read_bytes()
    assert torn.startswith(whole) and len(torn) == len(whole) + 10
    with pytest.raises(OSError, match=f"journal {path}: cannot be cut .*I/O error"):
        journal.add([("f", 2)])
    assert path.read_bytes() == torn
    journal.add([("f", 3)])
    journal.close()
    assert Journal(path, SETTINGS).take("f") == (3, None, 5)


# Through a generator

OPTIONS: dict[str, dict[str, Any]] = {
    "beam": {"beam": 3, "max_len_b": 5},
    "sampling": {"beam": 2, "max_len_b": 5, "sampling": True},
}


def samples() -> list[dict[str, Any]]:
    return [batch(SYMBOLS, lengths, seed) for seed, lengths in enumerate([(5, 3), (4,), (6, 2)])]


def numbers(results: Hypotheses) -> Any:
    return [
        [[h[name].tolist() for name in ("tokens", "score", "positional_scores")] for h in sentence]
        for sentence in results
    ]


def generated(generator: Any) -> list[Any]:
    torch.manual_seed(0)
    return [numbers(generator.generate(None, sample)) for sample in samples()]


@pytest.fixture(params=OPTIONS)
def generator(request: pytest.FixtureRequest) -> Any:
    return generator_of([model_of("transformer")], SYMBOLS, OPTIONS[request.param])


def recorded(generator: Any, path: Path) -> list[Any]:
    journal = Journal(path, SETTINGS)
    try:
        return generated(RecordingGenerator(generator, journal))
    finally:
        journal.close()


def test_hypotheses_from_a_damaged_journal_are_right(generator, tmp_path) -> None:
    expected = generated(generator)
    path = tmp_path / "journal"
    assert recorded(generator, path) == expected
    whole = path.read_bytes()
    assert recorded(generator, path) == expected and path.read_bytes() == whole
    draw = random.Random(0)
    start = whole.index(b"\n") + 1
    for number in range(30):
        place = draw.randrange(start, len(whole))
        flipped = bytes([whole[place] ^ 1 << draw.randrange(8)])
        cut = whole[:place] + (b"" if number % 3 == 0 else flipped + whole[place + 1 :])
        path.write_bytes(cut)
        assert recorded(generator, path) == expected
        assert recorded(generator, path) == expected  # with what was done again


class Counting(GeneratorWrapper):
    """A generator that counts the batches that it generates for."""

    calls = 0

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Any:
        self.calls += 1
        return self._generator.generate(models, sample, **arguments)


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_record_is_done_again_from_the_same_random_numbers(tmp_path, lost) -> None:
    generator = Counting(generator_of([model_of("transformer")], SYMBOLS, OPTIONS["sampling"]))
    path = tmp_path / "journal"
    expected = recorded(generator, path)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[1 + lost]
    path.write_bytes(b"".join(lines))
    generator.calls = 0
    assert recorded(generator, path) == expected
    assert generator.calls == 1


def test_equal_batches_of_a_random_search_keep_their_own_hypotheses(tmp_path) -> None:
    generator = generator_of([model_of("transformer")], SYMBOLS, OPTIONS["sampling"])
    path = tmp_path / "journal"
    sample = samples()[0]

    def three_times() -> list[Any]:
        journal = Journal(path, SETTINGS)
        torch.manual_seed(0)
        ours = RecordingGenerator(generator, journal)
        results = [numbers(ours.generate(None, sample)) for _ in range(3)]
        journal.close()
        return results

    expected = three_times()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert three_times() == expected


def test_a_record_that_cannot_be_read_is_done_again(
    generator, tmp_path, monkeypatch, caplog
) -> None:
    path = tmp_path / "journal"
    expected = recorded(generator, path)
    lines = path.read_bytes().splitlines(keepends=True)
    key = journal_file._key_of(lines[0])
    for old, new in [
        (b'"float32"', b'"floct32"'),
        (b'"float32"', b'"nn"'),
        (b'"shape":[', b'"shape":[3,'),
        (b'"values":[', b'"values":["x",'),
    ]:
        text = lines[1].split(b" ", 1)[1].rstrip(b"\n").replace(old, new, 1)
        forged = journal_file._checksum(text, key) + b" " + text + b"\n"
        path.write_bytes(lines[0] + forged + b"".join(lines[2:]))
        caplog.clear()
        assert recorded(generator, path) == expected
        assert f"journal {path}: line 2 is damaged (a tensor" in caplog.text


# Memory that runs out


def failing(error: Callable[[], Exception], times: int, function: Any) -> Any:
    left = [error() for _ in range(times)]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("error", ERRORS)
def test_a_record_for_which_memory_runs_out_is_tried_again(
    generator, tmp_path, monkeypatch, error, caplog
) -> None:
    path = tmp_path / "journal"
    expected = generated(generator)
    with monkeypatch.context() as patch:
        patch.setattr(journal_file, "_json", failing(ERRORS[error], 0, journal_file._json))
        journal = Journal(path, SETTINGS)
        patch.setattr(journal_file, "_json", failing(ERRORS[error], 1, journal_file._json))
        with caplog.at_level(logging.WARNING):
            assert generated(RecordingGenerator(generator, journal)) == expected
        journal.close()
    assert "out of memory: trying again" in caplog.text
    whole = path.read_bytes()
    assert recorded(generator, path) == expected
    assert path.read_bytes() == whole, "all was recorded"


@pytest.mark.parametrize("function", ["to_json", "_tensor"])
def test_memory_may_run_out_while_a_record_is_made_or_read(generator, tmp_path, function) -> None:
    path = tmp_path / "journal"
    expected = generated(generator)
    if function == "_tensor":
        recorded(generator, path)
    with Memory(fail_at=1, stage=("tensors.py", function)) as watched:
        assert recorded(generator, path) == expected
    assert watched.failures == 1
    whole = path.read_bytes()
    assert recorded(generator, path) == expected
    assert path.read_bytes() == whole


def test_a_record_for_which_memory_never_suffices_is_an_error(
    generator, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, SETTINGS)
    monkeypatch.setattr(journal_file, "_json", failing(MemoryError, 2, journal_file._json))
    with pytest.raises(MemoryError):
        generated(RecordingGenerator(generator, journal))
    journal.close()
    assert path.read_bytes().startswith(MAGIC) and path.read_bytes().count(b"\n") == 1
