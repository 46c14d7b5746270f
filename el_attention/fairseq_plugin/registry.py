"""Registers an `el_` twin of every architecture and task that EL-attention serves."""

from __future__ import annotations

import os
from typing import Any

from fairseq import checkpoint_utils, file_utils, models, tasks

from el_attention.fairseq_plugin.architecture import is_served
from el_attention.fairseq_plugin.convert import convert
from el_attention.fairseq_plugin.literals import require_literals
from el_attention.fairseq_plugin.options import config_with_options, with_options
from el_attention.fairseq_plugin.task import ELTask
from el_attention.specialize import Specialized, specialized_class

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
    def build_model(cls, args: Any, *more: Any, **kwargs: Any) -> Any:
        """Builds the model as the original class does, then converts it.

        Raises:
            ValueError: if an option that fairseq evaluates is no literal.
        """
        require_literals(args)
        return convert(super().build_model(args, *more, **kwargs))  # type: ignore[misc]

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: str = "model.pt",
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Loads a hub interface as the original class does, then converts it.

        Checkpoints name their own task and model, which may be stock ones: they are checked first.

        Raises:
            ValueError: if an option that fairseq evaluates is no literal.
        """
        archive = cls.hub_models().get(model_name_or_path, model_name_or_path)  # type: ignore[attr-defined]
        files = checkpoint_file
        if isinstance(archive, dict):
            files, archive = archive.get("checkpoint_file", files), archive["path"]
        folder = file_utils.load_archive_file(archive)
        for file in files.split(os.pathsep):
            state = checkpoint_utils.load_checkpoint_to_cpu(os.path.join(folder, file))
            require_literals([state.get("args"), state.get("cfg")])
        return convert(
            super().from_pretrained(model_name_or_path, checkpoint_file, *args, **kwargs)  # type: ignore[misc]
        )


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
