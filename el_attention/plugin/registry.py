"""Registers an `el_` twin of every architecture and task that EL-attention serves."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fairseq import models, tasks
from fairseq.dataclass import ChoiceEnum
from fairseq.models.nat import FairseqNATModel
from fairseq.models.transformer import TransformerModelBase
from fairseq.models.transformer_lm import TransformerLanguageModel

from el_attention.attention import PLAN_CHOICES
from el_attention.plugin.convert import convert
from el_attention.plugin.specialize import Specialized, specialized_class
from el_attention.plugin.task import ELTask

PREFIX = "el_"
PLAN_HELP = "how attention reads shared states when generating; every plan gives the same result"

# The generation tasks of the Transformer, BART and language-model families.
TASKS = (
    "translation",
    "translation_from_pretrained_bart",
    "translation_from_pretrained_xlm",
    "translation_multi_simple_epoch",
    "denoising",
    "multilingual_denoising",
    "language_modeling",
    "multilingual_language_modeling",
)


class ELModel(Specialized):
    """A model that is converted as soon as it is built."""

    @classmethod
    def build_model(cls, *args: Any, **kwargs: Any) -> Any:
        """Builds the model as the original class does, then converts it."""
        return convert(super().build_model(*args, **kwargs))  # type: ignore[misc]


def has_twin(model: type) -> bool:
    """Whether a registered model class belongs to a family that EL-attention serves.

    Non-autoregressive models share the Transformer's base class but keep no states.
    """
    return issubclass(model, (TransformerModelBase, TransformerLanguageModel)) and not issubclass(
        model, FairseqNATModel
    )


def register_models() -> None:
    """Registers the twin of each model and of each of its architectures."""
    for name, model in list(models.MODEL_REGISTRY.items()):
        if name.startswith(PREFIX) or not has_twin(model):
            continue
        if PREFIX + name not in models.MODEL_REGISTRY:
            dataclass = models.MODEL_DATACLASS_REGISTRY.get(name)
            twin = specialized_class(ELModel, model)
            models.register_model(PREFIX + name, dataclass=dataclass)(twin)
        for architecture in models.ARCH_MODEL_INV_REGISTRY.get(name, []):
            if PREFIX + architecture not in models.ARCH_MODEL_REGISTRY:
                configure = models.ARCH_CONFIG_REGISTRY[architecture]
                models.register_model_architecture(PREFIX + name, PREFIX + architecture)(configure)


def register_tasks() -> None:
    """Registers the twin of each task, with the option --attention-plan."""
    for name in TASKS:
        if name not in tasks.TASK_REGISTRY or PREFIX + name in tasks.TASK_REGISTRY:
            continue
        twin = specialized_class(ELTask, tasks.TASK_REGISTRY[name])
        dataclass = tasks.TASK_DATACLASS_REGISTRY.get(name)
        if dataclass is None:
            twin.add_args = staticmethod(_with_plan(twin.add_args))  # type: ignore[attr-defined]
        else:
            dataclass = _config_with_plan(dataclass)
        tasks.register_task(PREFIX + name, dataclass=dataclass)(twin)


def _with_plan(add_args: Any) -> Any:
    def add_args_and_plan(parser: argparse.ArgumentParser) -> None:
        add_args(parser)
        parser.add_argument(
            "--attention-plan", choices=PLAN_CHOICES, default="auto", help=PLAN_HELP
        )

    return add_args_and_plan


def _config_with_plan(dataclass: type) -> type:
    option = dataclasses.field(default="auto", metadata={"help": PLAN_HELP})
    fields = [("attention_plan", ChoiceEnum(PLAN_CHOICES), option)]
    return dataclasses.make_dataclass(f"EL{dataclass.__name__}", fields, bases=(dataclass,))
