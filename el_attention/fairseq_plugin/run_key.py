"""What the hypotheses of a run depend on: all that must be the same where it is continued."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fairseq
import torch
from fairseq.data import Dictionary
from omegaconf import DictConfig, OmegaConf
from torch import nn

import el_attention
from el_attention.ops import extension
from el_attention.robust.description import (
    as_text,
    digest,
    module_settings,
    weights_digest,
)
from el_attention.specialize import Specialized

# Options that may be others where a run is continued, by name, whatever group they are in. All
# others must be the same: a change that would do no harm is refused rather than guessed.
MAY_DIFFER = {
    # Files that may have moved: what they hold counts, as digests of weights and dictionaries, and
    # as tokens in the key of every batch.
    "path",
    "data",
    "input",
    "lm_path",
    "user_dir",
    "save_dir",
    "results_path",
    "journal",
    # Memory: to be lowered where a run was killed for want of it. Tokens do not depend on it; with
    # `--attention-plan auto` and --batch-by-memory scores may, in the last digit, as they do on
    # how much is free.
    "el_memory_budget",
    # Who reads data ahead, and how far.
    "num_workers",
    "data_buffer_size",
    # What is printed while it runs, and where to.
    "quiet",
    "no_progress_bar",
    "log_interval",
    "log_format",
    "log_file",
    "tensorboard_logdir",
    "wandb_project",
    "azureml_logging",
    "aim_repo",
    "aim_run_hash",
    # Which of several equal devices; whether it is one, a CPU or another kind, counts.
    "device_id",
    # How processes of one run find each other; their number and this one's rank count.
    "distributed_init_method",
    "distributed_port",
}


def run_settings(
    task: Any,
    models: Iterable[nn.Module],
    options: Any,
    extra: Mapping[str, Any],
    cfg: Any,
) -> dict[str, str]:
    """Describes what the hypotheses of all sentences depend on, but for the sentences.

    Args:
        task: an `ELTask`.
        models: the ensemble, as it generates.
        options: fairseq's generation configuration, that the generator was built with.
        extra: further arguments of the generator, a language model among them.
        cfg: the whole configuration that models were prepared with, or None if they were not.

    Returns:
        Text by name, for a journal.

    Raises:
        ValueError: if there is something that cannot be told apart in another run.
    """
    models = list(models)
    settings = {
        "version of torch": str(torch.__version__),
        "version of fairseq": str(fairseq.__version__),
        "version of el_attention": el_attention.__version__,
        "operators": "pure PyTorch" if extension.unsupported else "compiled",
        "attention plan": task.plan,
        "task": _class_name(task),
        "weights": weights_digest(models),
    }
    for number, model in enumerate(models):
        settings |= _model_settings(f"model {number}", model)
    for name in ("source_dictionary", "target_dictionary"):
        dictionary = _dictionary(task, name)
        if dictionary is not None:
            settings[name] = digest([dictionary.symbols, _special(dictionary)])
    settings |= dict(_flat("", cfg))
    settings |= dict(_flat("task.", getattr(task, "cfg", None) or getattr(task, "args", None)))
    settings |= dict(_flat("generation.", options))
    for name, value in extra.items():
        if name == "extra_gen_cls_kwargs":  # which are given one by one, too
            continue
        if isinstance(value, nn.Module):
            settings[f"weights of {name}"] = weights_digest([value])
            settings |= _model_settings(name, value)
        else:
            settings[f"generation.{name}"] = as_text(f"--journal: generation.{name}", value)
    return settings


def _model_settings(prefix: str, model: nn.Module) -> dict[str, str]:
    settings = {f"{prefix}: class": _class_name(model)}
    settings[f"{prefix}: device"] = next((p.device.type for p in model.parameters()), "none")
    for name, value in module_settings(model).items():
        settings[f"{prefix}: {name}"] = value
    # fairseq's modules keep the configuration that they were built with, and may read it.
    for module in model.modules():
        for kept in ("cfg", "args"):
            for name, text in _flat(f"{prefix}: {kept}.", vars(module).get(kept)):
                if settings.setdefault(name, text) != text:
                    settings[name] += f", {text}"
    return settings


def _flat(prefix: str, options: Any) -> Iterator[tuple[str, str]]:
    """Yields the options of a configuration that may not differ, as names and text."""
    for name, value in (_mapping(options) or {}).items():
        if name in MAY_DIFFER:
            continue
        if _mapping(value) is not None:
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", as_text(f"--journal: {prefix}{name}", value)


def _mapping(options: Any) -> Mapping[str, Any] | None:
    """Returns a configuration of any kind as a mapping; None for what is none."""
    if isinstance(options, DictConfig):
        options = OmegaConf.to_container(options)
    is_object = isinstance(options, argparse.Namespace) or dataclasses.is_dataclass(options)
    if is_object and not isinstance(options, type):
        options = vars(options)
    return options if isinstance(options, Mapping) else None


def _dictionary(task: Any, name: str) -> Dictionary | None:
    try:
        value = getattr(task, name, None)
    except NotImplementedError:  # of tasks that have none
        return None
    return value if isinstance(value, Dictionary) else None


def _special(dictionary: Dictionary) -> list[int]:
    return [dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()]


def _class_name(thing: object) -> str:
    """The name of a class, fairseq's where the plugin has replaced it by a twin."""
    kind = type(thing)
    while issubclass(kind, Specialized):
        kind = kind._base
    return f"{kind.__module__}.{kind.__qualname__}"
