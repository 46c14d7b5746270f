"""Decoders that read parts of the encoder's output, or attend to another: as in stock fairseq."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_attention.fairseq_plugin.encoder_out import SharedEncoderOut
from families import SYMBOLS, WITH_ENCODER, model_of
from random_reading import ACCESSES, PARTS, PLACES, ReadingCase
from reproducible import check, few, main, many
from tiny import PLANS, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

CASES = st.builds(
    ReadingCase,
    family=st.sampled_from(WITH_ENCODER),
    plan=st.sampled_from(PLANS),
    parts=st.lists(st.sampled_from([*PARTS]), min_size=1, max_size=5, unique=True).map(tuple),
    access=st.sampled_from([*ACCESSES]),
    place=st.sampled_from(PLACES),
    beam=st.integers(1, 5),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple),
    left_pad=st.booleans(),
    prefix=st.sampled_from([0, 0, 2]),
    sampling=st.sampled_from([False, False, False, True]),
    stock_generator=st.sampled_from([False, False, True]),
)


@few(30)
@given(CASES)
def test_random_readers(case: ReadingCase) -> None:
    check(case)


@pytest.mark.slow
@many(300)
@given(CASES)
def test_many_random_readers(case: ReadingCase) -> None:
    check(case)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_read_or_replaced_decides_the_hypotheses(place) -> None:
    case = ReadingCase(place=place, parts=("encoder_out", "src_tokens"), lengths=(7, 4, 5))
    read, _ = case.run()
    generator = generator_of([model_of(case.family)], SYMBOLS, {"beam": 3, "max_len_b": 9})
    plain = generator.generate(None, batch(SYMBOLS, case.lengths))
    scores = [[float(s[0]["score"]) for s in hypotheses] for hypotheses in (read, plain)]
    assert scores[0] != pytest.approx(scores[1], rel=1e-3)


def test_a_case_runs_again_from_its_command_line(monkeypatch, capsys) -> None:
    case = ReadingCase(place="layer", lengths=(4, 2), parts=("encoder_out", "src_lengths"))
    *_, script, text = shlex.split(case.command)
    assert script.endswith("random_reading.py")
    assert ReadingCase.from_json(text) == case
    monkeypatch.setattr("sys.argv", [script, text])
    assert main(ReadingCase) == 0
    monkeypatch.setattr(
        SharedEncoderOut,
        "__getitem__",
        lambda self, name: [x[self.columns.flip(0)] for x in self.shared[name]],
    )
    case = ReadingCase(lengths=(6, 6), parts=("src_tokens",))
    monkeypatch.setattr("sys.argv", [script, shlex.split(case.command)[-1]])
    assert main(ReadingCase) == 1
    assert capsys.readouterr().out.startswith("the same\ndifferent: ")
