"""What stands before a generator has its attributes, and can be copied and pickled."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import el_attention
from el_attention.fairseq_plugin.own_limits import OwnLimitsGenerator
from el_attention.fairseq_plugin.recording import RecordingGenerator
from el_attention.fairseq_plugin.splitting import SplittingGenerator
from el_attention.fairseq_plugin.unknown_words import AligningGenerator
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper, innermost
from el_attention.robust.journal import Journal
from families import LENGTHS, SYMBOLS, model_of
from tiny import assert_same, batch, generator_of

WRAPPERS = ["splitting", "own limits", "aligning", "recording", "all"]


@pytest.fixture
def inner() -> Any:
    options = {"beam": 3, "max_len_a": 0.5, "max_len_b": 2}
    return el_attention.convert(generator_of([model_of("transformer")], SYMBOLS, options))


def wrapped(kind: str, inner: Any, tmp_path: Any) -> Any:
    if kind == "splitting":
        return SplittingGenerator(inner)
    if kind == "own limits":
        return OwnLimitsGenerator(inner)
    if kind in ("aligning", "all"):
        inner.model.keep_attention = True
    if kind == "aligning":
        return AligningGenerator(inner, SYMBOLS, SYMBOLS, set())
    if kind == "all":
        inner = AligningGenerator(inner, SYMBOLS, SYMBOLS, set())
        inner = SplittingGenerator(OwnLimitsGenerator(inner))
    return RecordingGenerator(inner, Journal(tmp_path / "journal", {}))


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_survive_copies(inner, tmp_path, kind, again) -> None:
    ours = wrapped(kind, inner, tmp_path)
    expected = ours.generate(None, batch(SYMBOLS, LENGTHS))
    twin = again(ours)
    assert type(twin) is type(ours) and twin.beam_size == 3
    assert type(innermost(twin)) is type(inner)
    assert_same(expected, twin.generate(None, batch(SYMBOLS, LENGTHS)), tolerance=0)


def test_a_copy_records_in_the_same_journal(inner, tmp_path) -> None:
    ours = wrapped("recording", inner, tmp_path)
    copy.deepcopy(ours).generate(None, batch(SYMBOLS, LENGTHS))
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 2


def test_a_pickled_copy_does_not_record_and_says_so(inner, tmp_path, caplog) -> None:
    ours = wrapped("recording", inner, tmp_path)
    twin = pickled(ours)
    assert f"journal {tmp_path / 'journal'}: left where it was pickled" in caplog.text
    twin.generate(None, batch(SYMBOLS, LENGTHS))
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_missing_attribute_is_an_attribute_error(inner, tmp_path, kind) -> None:
    ours = wrapped(kind, inner, tmp_path)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = ours.no_such_thing
    empty = object.__new__(type(ours))
    for name in ("_generator", "beam_size", "__deepcopy__"):
        with pytest.raises(AttributeError):
            getattr(empty, name)


def test_the_innermost_generator_is_found(inner) -> None:
    assert innermost(GeneratorWrapper(GeneratorWrapper(inner))) is inner
