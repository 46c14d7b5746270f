"""The options that tests compose by `composed` are those that hydra composes."""

from __future__ import annotations

import argparse

import pytest
from fairseq import options
from fairseq.dataclass import utils
from hydra.experimental import compose

from clidata import SETUPS
from composed import composed
from crossed import crossed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

CASES = [
    *((setup, "") for setup in SETUPS),
    ("translation", "--beam 7 --lenpen 0.5 --max-tokens 99 --seed 3 --print-alignment soft"),
    ("translation", "--scoring chrf --bpe gpt2 --sampling --nbest 2"),
    # What has to be quoted.
    ("translation", "--save-dir {'a':'b,c'} --source-lang é --results-path a=b.c"),
]


@pytest.mark.parametrize(("setup", "more"), crossed(CASES))
def test_options_of_generations_are_those_of_hydra(workspace, monkeypatch, setup, more) -> None:
    arguments = workspace.generation(setup, "transformer", *more.split(), plan="auto")
    parsed = options.parse_args_and_arch(options.get_generation_parser(), arguments)
    assert_same_options(parsed, monkeypatch)


@pytest.mark.parametrize("name", ["transformer", "lm"])
def test_options_of_trainings_are_those_of_hydra(workspace, monkeypatch, name) -> None:
    parsed = options.parse_args_and_arch(options.get_training_parser(), workspace.training(name))
    assert_same_options(parsed, monkeypatch)


def assert_same_options(parsed: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "compose", compose)
    expected = repr(utils.convert_namespace_to_omegaconf(parsed))
    monkeypatch.setattr(utils, "compose", composed)
    for _ in range(2):  # the second time all of it is remembered
        assert repr(utils.convert_namespace_to_omegaconf(parsed)) == expected
