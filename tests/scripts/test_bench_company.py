"""scripts/benchmarks/company.py: steps in company are judged by those alone and by stock's."""

from __future__ import annotations

import importlib
import sys

import pytest

company = importlib.import_module("benchmarks.company")
STOCK = {"alone": [2.0, 2.0, 2.0], "company": [7.0, 9.0, 8.0]}


@pytest.mark.parametrize(
    ("rounds", "wrong"),
    [
        ([2.0, 3.9, 2.5], []),
        ([2.7, 3.0, 1.0], ["a median above 2.6"]),
        ([2.0, 4.1, 2.0], ["a round above 4.0"]),
        ([9.0, 9.0, 2.0], ["a median above 2.6", "a round above 4.0", "slower than stock"]),
    ],
)
def test_rounds_are_judged(rounds, wrong, capsys) -> None:
    steps = {"fairseq": STOCK, "el-attention": {"alone": [1.0, 0.5, 1.5], "company": rounds}}
    found = company.report(8, steps)
    assert len(found) == len(wrong)
    assert all(text in line for text, line in zip(wrong, found, strict=True))
    assert "| 8 | fairseq | 2000.0 | 8000.0 | 4.00 | 4.50 |" in capsys.readouterr().out


@pytest.mark.rest
@pytest.mark.slow
def test_the_script_measures_both_systems(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["company", "--smoke", "--steps", "3"])
    company.main()
    printed = capsys.readouterr().out
    assert "| 1 | fairseq |" in printed and "| 1 | el-attention |" in printed
