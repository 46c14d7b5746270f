"""Options of the `el_` tasks on fairseq's command lines."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import DictConfig, OmegaConf

from el_attention.attention import PLAN_CHOICES


@dataclasses.dataclass(frozen=True)
class TaskOption:
    """An option; its default is that of a task that was made without it.

    Attributes:
        name: the name of the field; the option is the same with dashes.
        default: if it is not given; False for an option without a value.
        help: what it does.
        choices: the values that it may have; none for any text.
    """

    name: str
    default: str | bool | None
    help: str
    choices: tuple[str, ...] = ()


OPTIONS = (
    TaskOption(
        "attention_plan",
        "auto",
        "how attention reads shared states when generating; every plan gives the same result",
        PLAN_CHOICES,
    ),
    TaskOption(
        "el_memory_budget",
        None,
        "memory that generation may take for states and temporaries, beyond what is loaded, such "
        "as 12GiB; default: what is free; for `--attention-plan auto` and --batch-by-memory",
    ),
    TaskOption(
        "batch_by_memory",
        False,
        "make batches as large as the memory allows, in place of --batch-size and --max-tokens",
    ),
    TaskOption(
        "journal",
        None,
        "file that keeps finished hypotheses; a generation that was interrupted and is started "
        "again with the same options continues from there and prints everything",
    ),
    TaskOption(
        "tokens_to_suppress",
        None,
        "tokens of the target dictionary, separated by spaces, that no hypothesis holds unless a "
        "prefix does",
    ),
    TaskOption(
        "ensemble_weights",
        None,
        "weights of the models of --path in the mean of their probabilities, separated by commas, "
        "such as 2,1; default: equal ones",
    ),
    TaskOption(
        "no_repeat_ngram_after_prefix",
        False,
        "let --no-repeat-ngram-size count only n-grams after the prefix or prompt of a sentence",
    ),
)


def option_of(task: object, name: str) -> Any:
    """Returns the value of an option, whichever way `task` keeps its configuration."""
    configuration = getattr(task, "cfg", None) or getattr(task, "args", None)
    (option,) = (option for option in OPTIONS if option.name == name)
    value = getattr(configuration, name, None)
    return option.default if value is None else value


def option_of_run(task: object, options: object, name: str) -> Any:
    """Returns the value of an option: of a hub's call if it is among its `options`, or `task`'s."""
    value = getattr(options, name, None)
    return option_of(task, name) if value is None else value


def changed_options(options: Any, **values: Any) -> argparse.Namespace:
    """Returns a copy of fairseq's generation options with other values.

    Args:
        options: a configuration of omegaconf, or a namespace.
        values: the values by name, of any type, functions included.
    """
    is_config = isinstance(options, DictConfig)
    old: Any = OmegaConf.to_container(options) if is_config else vars(options)
    return argparse.Namespace(**{**old, **values})


def with_options(add_args: Callable[[argparse.ArgumentParser], None]) -> Any:
    """Returns a task's `add_args` that adds the options too."""

    def add_args_and_options(parser: argparse.ArgumentParser) -> None:
        add_args(parser)
        for option in OPTIONS:
            flag = "--" + option.name.replace("_", "-")
            if option.default is False:
                parser.add_argument(flag, action="store_true", help=option.help)
            else:
                parser.add_argument(
                    flag,
                    choices=option.choices or None,
                    default=option.default,
                    help=option.help,
                )

    return add_args_and_options


def config_with_options(dataclass: type) -> type:
    """Returns a task's configuration with the options as further fields."""
    fields = []
    for option in OPTIONS:
        kind: Any = bool if option.default is False else Optional[str]  # noqa: UP045 (omegaconf)
        if option.choices:
            kind = ChoiceEnum(option.choices)
        value = dataclasses.field(default=option.default, metadata={"help": option.help})
        fields.append((option.name, kind, value))
    return dataclasses.make_dataclass(f"EL{dataclass.__name__}", fields, bases=(dataclass,))
