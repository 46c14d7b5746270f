"""scripts/benchmarks/corpora.py: every system has a rate, and its share is that of the loops."""

from __future__ import annotations

import importlib
import sys

import pytest

corpora = importlib.import_module("benchmarks.corpora")


def test_shares_are_medians_of_ratios_of_the_same_round(capsys) -> None:
    rates = {"loops": [10.0, 20.0, 40.0], "other": [9.0, 19.0, 20.0]}
    assert corpora.report(rates, workers=2) == {"loops": 1.0, "other": pytest.approx(0.9)}
    assert "| other | 19 | 9.5 | 0.90 | 0.90, 0.95, 0.50 |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_measures_all_that_is_installed(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["corpora", "--smoke"])
    monkeypatch.setattr(corpora, "find_spec", lambda package: None)
    corpora.main()
    printed = capsys.readouterr().out
    assert "64 rows, batches of 8" in printed
    assert "| loops |" in printed and "| --workers 2 |" in printed
