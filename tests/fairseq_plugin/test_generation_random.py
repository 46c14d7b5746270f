"""Randomised models, batches and options: the same hypotheses as stock fairseq."""

from __future__ import annotations

import shlex
import sys

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from el_attention.state import BeamTree
from random_case import ARCHITECTURES, BATCHES, SEARCHES, Case, StockFailed
from reproducible import check, few, main, many
from tiny import PLANS


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Cases that stock fairseq can run."""
    architecture = draw(st.sampled_from(ARCHITECTURES))
    search = draw(st.sampled_from(list(SEARCHES)))
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=5))
    prefix = draw(st.sampled_from([False, True]))
    beam = draw(st.integers(1, 8))
    longest = draw(st.integers(6, 14))
    unconstrained = "constraints" not in search  # forced words may leave stock without candidates
    random = "sampling" in SEARCHES[search]
    if random:  # other numbers are drawn in other batches
        batches = "whole"
    elif search == "source length":
        batches = draw(st.sampled_from([b for b in BATCHES if b != "alone"]))
    else:
        batches = draw(st.sampled_from(BATCHES))
    lengths_of_prefix: SearchStrategy[list[int]] = st.lists(
        st.integers(1 if "lm" in architecture else 0, 5),
        min_size=len(lengths),
        max_size=len(lengths),
    )
    return Case(
        architecture=architecture,
        plan=draw(st.sampled_from(PLANS)),
        seed=draw(st.integers(0, 10_000)),
        words=draw(st.integers(14, 40)),
        head_width=draw(st.sampled_from([4, 6, 8, 10])),
        heads=draw(st.sampled_from([1, 2, 3, 5])),
        encoder_width=draw(st.sampled_from([12, 20, 28])),
        layers=draw(st.integers(1, 4)),
        pre_norm=draw(st.booleans()),
        tied=draw(st.booleans()),
        models=draw(st.sampled_from([1, 1, 1, 2])),
        lengths=tuple(lengths),
        left_pad=draw(st.booleans()),
        prefix=tuple(draw(lengths_of_prefix)) if prefix and unconstrained else (),
        search=search,
        beam=beam + beam % 2 if search == "diverse beams" else beam,
        min_len=1 if search == "source length" else draw(st.integers(1, 6)),
        suppressed=draw(st.sampled_from([0, 0, 3])) if unconstrained else 0,
        ngrams=draw(st.sampled_from([0, 0, 1, 2, 3])),
        max_len=longest if unconstrained else longest + 10,
        max_len_a=0.0 if batches == "alone" else draw(st.sampled_from([0.0, 0.0, 0.7, 1.0])),
        batches=batches,
        lenpen=draw(st.sampled_from([0.0, 1.0, 2.0])),
        temperature=draw(st.sampled_from([0.7, 1.0, 1.6])),
        unkpen=draw(st.sampled_from([-1.0, 0.0, 1.0])),
        eos=draw(st.sampled_from([1.0, 2.0, 3.0])),
        stock_generator=draw(st.sampled_from([False, False, True])),
        retain_dropout=draw(st.sampled_from([0.0, 0.0, 0.2])) if batches == "whole" else 0.0,
        double=draw(st.sampled_from([False, False, True])),
    )


def check_or_reject(case: Case) -> None:
    try:
        check(case)
    except StockFailed:
        reject()


@few(60)
@given(cases())
def test_random_cases(case: Case) -> None:
    check_or_reject(case)


@pytest.mark.slow
@many(400)
@given(cases())
def test_many_random_cases(case: Case) -> None:
    check_or_reject(case)


def test_a_case_runs_again_from_its_command_line(monkeypatch, capsys) -> None:
    case = Case(search="top-k", lengths=(4, 2), plan="shared-projection", prefix=(1, 0))
    *_, script, text = shlex.split(case.command)
    assert Case.from_json(text) == case
    monkeypatch.setattr(sys, "argv", [script, text])
    assert main(Case) == 0
    assert capsys.readouterr().out == "the same\n"


def test_a_case_that_differs_says_so(monkeypatch, capsys) -> None:
    reorder = BeamTree.reorder
    monkeypatch.setattr(
        BeamTree,
        "reorder",
        lambda self, order: reorder(self, order.view(-1, self.beam).flip(1).flatten()),
    )
    monkeypatch.setattr(sys, "argv", ["random_case.py", "{}"])
    assert main(Case) == 1
    assert "different: " in capsys.readouterr().out
