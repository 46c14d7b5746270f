"""Randomised models of Transformers, batches and options: the same results as unconverted."""

from __future__ import annotations

import shlex
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")

from el_attention.transformers_plugin.cache import DecodingCache  # noqa: E402
from el_attention.transformers_plugin.version_4 import IS_4  # noqa: E402
from reproducible import check, few, main, many  # noqa: E402
from transformers_case import Case  # noqa: E402
from transformers_models import COMPOSITES, MODELS, PLANS  # noqa: E402

# Those that Transformers 4 does otherwise are left out.
NAMES = [
    name
    for name in (*MODELS, *COMPOSITES)
    if not IS_4
    or (name not in ("whisper", "m2m_100", "gpt2, scaled by layers") and "t5" not in name)
]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Cases that Transformers can run."""
    name = draw(st.sampled_from(NAMES))
    beams = draw(st.sampled_from([1, 1, 2, 3, 5]))
    samples = draw(st.booleans())
    early: list[bool | str] = [False, True, "never"]
    returned = draw(st.integers(1, 3 if beams == 1 else beams)) if samples or beams > 1 else 1
    return Case(
        name=name,
        plan=draw(st.sampled_from(PLANS)),
        double=draw(st.booleans()) and "xglm" not in name,  # stock XGLM has no float64
        lengths=tuple(draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))),
        whole=draw(st.booleans()),
        eos=draw(st.integers(1, 4)),
        num_beams=beams,
        num_return_sequences=returned,
        do_sample=samples,
        early_stopping=draw(st.sampled_from(early)),
        length_penalty=draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])),
        max_new_tokens=draw(st.integers(1, 14)),
        min_new_tokens=draw(st.sampled_from([0, 0, 3])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        forced_eos=draw(st.booleans()),
        top_k=draw(st.sampled_from([2, 50])),
    )


@few(25)
@given(cases())
def test_random_cases(case: Case) -> None:
    check(case)


@pytest.mark.slow
@many(300)
@given(cases())
def test_many_random_cases(case: Case) -> None:
    check(case)


def test_a_case_runs_again_from_its_command_line(monkeypatch, capsys) -> None:
    case = Case(name="gpt2", lengths=(4, 2), plan="shared-projection", num_beams=3)
    *_, script, text = shlex.split(case.command)
    assert Case.from_json(text) == case
    monkeypatch.setattr(sys, "argv", [script, text])
    assert main(Case) == 0
    assert capsys.readouterr().out == "the same\n"


def test_a_case_that_differs_says_so(monkeypatch, capsys) -> None:
    reorder = DecodingCache.reorder_cache

    def reversed_order(self: DecodingCache, order) -> None:
        reorder(self, order.view(-1, self.beam).flip(1).flatten())

    monkeypatch.setattr(DecodingCache, "reorder_cache", reversed_order)
    monkeypatch.setattr(sys, "argv", ["transformers_case.py", '{"name": "gpt2", "num_beams": 4}'])
    assert main(Case) == 1
    assert "different: " in capsys.readouterr().out
