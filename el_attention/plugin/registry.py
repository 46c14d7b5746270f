"""Registers an `el_` twin of every architecture and task that EL-attention serves."""

from __future__ import annotations

from typing import Any

from fairseq import models, tasks

from el_attention.plugin.architecture import is_served
from el_attention.plugin.convert import convert
from el_attention.plugin.options import config_with_options, with_options
from el_attention.plugin.specialize import Specialized, specialized_class
from el_attention.plugin.task import ELTask

PREFIX = "el_"

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


def register_models() -> None:
    """Registers the twin of each model and of each of its architectures."""
    for name, model in list(models.MODEL_REGISTRY.items()):
        if name.startswith(PREFIX) or not is_served(model):
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
    """Registers the twin of each task, with the options of this package."""
    for name in TASKS:
        if name not in tasks.TASK_REGISTRY or PREFIX + name in tasks.TASK_REGISTRY:
            continue
        twin = specialized_class(ELTask, tasks.TASK_REGISTRY[name])
        dataclass = tasks.TASK_DATACLASS_REGISTRY.get(name)
        if dataclass is None:
            twin.add_args = staticmethod(with_options(twin.add_args))  # type: ignore[attr-defined]
        else:
            dataclass = config_with_options(dataclass)
        tasks.register_task(PREFIX + name, dataclass=dataclass)(twin)
