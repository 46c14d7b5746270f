"""Models of fairseq from their checkpoints, with the options that fairseq-generate would have."""

from __future__ import annotations

import ast
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.data import encoders
from fairseq.dataclass.configs import GenerationConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf, gen_parser_from_dataclass
from omegaconf import DictConfig, OmegaConf

from el_attention.fairseq_plugin.literals import require_literals

_PREFIX = "el_"
# What would change nothing in texts and scores, or is asked for elsewhere.
_NOT_OF_TEXTS = {
    **dict.fromkeys(
        ("replace_unk", "print_alignment", "print_step", "score_reference", "sacrebleu"),
        "it prints what is no hypothesis",
    ),
    "constraints": "rows hold none",
    "data": "it is the folder of the dictionaries, which has an argument of its own",
    "attention_plan": "the plan has an argument of its own",
    "el_memory_budget": "the memory budget has an argument of its own",
    "batch_by_memory": "that is so anyway",
    "journal": "what is finished is kept anyway",
}
# Beginnings of the names of a task's options that only training needs, and of one that hides that a
# sentence is too long.
_OF_TRAINING = ("data", "eval_", "load_alignments", "num_batch_buckets", "truncate_source")
# Files beside a checkpoint that fairseq's hub takes for options.
_FILES = {
    "code": "bpe_codes",
    "bpecodes": "bpe_codes",
    "sentencepiece.bpe.model": "sentencepiece_model",
    "merges.txt": "bpe_merges",
    "vocab.json": "bpe_vocab",
}


@dataclass(frozen=True)
class Loaded:
    """Models that generate together, and what they are asked to do.

    Attributes:
        cfg: the configuration of fairseq-generate.
        task: an `ELTask` that has built the models.
        models: the ensemble, on the device, in evaluation mode.
        language_model: the model of --lm-path, or None.
    """

    cfg: Any
    task: Any
    models: list[Any]
    language_model: Any


def load(
    checkpoint: str,
    given: Mapping[str, Any],
    data: str | None,
    device: str,
    dtype: str | None,
    plan: str,
) -> Loaded:
    """Loads what fairseq-generate would load for the task of a checkpoint, in its `el_` form.

    Args:
        checkpoint: its file, or those of an ensemble with colons between them.
        given: options of fairseq-generate by name; of those of the task, of --bpe and of
            --tokenizer that are not among them, the checkpoint's are taken.
        data: folder of the dictionaries; None for that of the checkpoint.
        device: the device of the models.
        dtype: the dtype of the models, such as "float16"; None for float32.
        plan: one of `PLAN_CHOICES`.

    Raises:
        ValueError: if there is no such checkpoint, or it does not load with these options; says
            why.
    """
    try:
        with warnings.catch_warnings():
            # fairseq calls hydra as versions before 1.1 were to be called.
            warnings.simplefilter("ignore", UserWarning)
            return _load(checkpoint, dict(given), data, torch.device(device), dtype, plan)
    except Exception as error:  # of as many kinds as there are files that are not as expected
        raise ValueError(
            f"model {checkpoint}: cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _load(
    checkpoint: str,
    given: dict[str, Any],
    data: str | None,
    device: torch.device,
    dtype: str | None,
    plan: str,
) -> Loaded:
    for name in given.keys() & _NOT_OF_TEXTS.keys():
        raise ValueError(f"option {name}: expected none, because {_NOT_OF_TEXTS[name]}")
    paths = utils.split_paths(checkpoint)
    state = checkpoint_utils.load_checkpoint_to_cpu(paths[0])
    require_literals([state.get("args"), state.get("cfg")])
    saved = (
        state["cfg"]
        if state.get("cfg") is not None
        else convert_namespace_to_omegaconf(state["args"])
    )
    folder = Path(paths[0]).absolute().parent
    cfg = _configuration(saved, folder, given, str(Path(data or folder).absolute()), device)
    cfg.task.attention_plan, cfg.task.batch_by_memory = plan, True  # limits are each text's own
    task: Any = tasks.setup_task(cfg.task)
    overrides = ast.literal_eval(cfg.common_eval.model_overrides)
    models, _ = checkpoint_utils.load_model_ensemble(
        paths,
        arg_overrides=overrides,
        task=task,
        state=None if overrides or len(paths) > 1 else state,
    )
    language_model = None
    if cfg.generation.lm_path is not None:
        overrides = {**overrides, "data": cfg.task.data}
        state = checkpoint_utils.load_checkpoint_to_cpu(cfg.generation.lm_path, overrides)
        require_literals([state.get("args"), state.get("cfg")])
        (language_model,), _ = checkpoint_utils.load_model_ensemble(
            [cfg.generation.lm_path], overrides, state=state
        )
    for model in filter(None, (*models, language_model)):
        model.to(device, None if dtype is None else getattr(torch, dtype)).eval()
    if language_model is not None:
        language_model.prepare_for_inference_(cfg)
    return Loaded(cfg, task, models, language_model)


def _configuration(
    saved: Any, folder: Path, given: dict[str, Any], data: str, device: torch.device
) -> Any:
    """Returns the configuration of fairseq-generate.

    Args:
        saved: the configuration that the checkpoint was trained with.
        folder: of the checkpoint.
        given: options by name.
        data: folder of the dictionaries.
        device: the device of the models.

    Raises:
        ValueError: if there is no such task or option, or an option has no such value.
    """
    name = str(given.pop("task", None) or _mapping(saved.task)["_name"])
    name = _PREFIX + name.removeprefix(_PREFIX)
    if name not in tasks.TASK_REGISTRY:
        served = ", ".join(x for x in sorted(tasks.TASK_REGISTRY) if x.startswith(_PREFIX))
        raise ValueError(f"task {name}: expected one of {served}")
    of_task = _options_of(tasks.TASK_REGISTRY[name])
    defaults = {
        option: value
        for option, value in _mapping(saved.task).items()
        if option in of_task and not option.startswith(_OF_TRAINING)
    }
    arguments = [data, "--task", name, *["--cpu"] * (device.type == "cpu")]
    known = {*GenerationConfig.__dataclass_fields__, *of_task, "post_process", "model_overrides"}
    known -= {"_name", *_NOT_OF_TEXTS}
    for kind, registry in (
        ("bpe", encoders.BPE_REGISTRY),
        ("tokenizer", encoders.TOKENIZER_REGISTRY),
    ):
        of_kind = _mapping(getattr(saved, kind, None))
        chosen = given.pop(kind, of_kind.get("_name"))
        if chosen is None:
            continue
        if chosen not in registry:
            raise ValueError(f"option {kind}: expected one of {[*registry]}, got {chosen!r}")
        arguments += [f"--{kind}", chosen]
        names = _options_of(registry[chosen])
        defaults |= {option: of_kind[option] for option in names & of_kind.keys()}
        defaults |= {
            option: str(folder / file)
            for file, option in _FILES.items()
            if option in names and (folder / file).exists()
        }
        known |= names
    if "user_dir" in given:
        arguments += ["--user-dir", str(given.pop("user_dir"))]
    unknown = sorted(given.keys() - known)
    if unknown:
        known |= {"bpe", "task", "tokenizer", "user_dir"}
        raise ValueError(f"option {unknown[0]}: expected one of {', '.join(sorted(known))}")
    parser = options.get_generation_parser()
    args = options.parse_args_and_arch(
        parser, arguments, modify_parser=lambda parser: parser.set_defaults(**defaults)
    )
    for option, value in given.items():
        setattr(args, option, _checked(option, value, getattr(args, option)))
    return convert_namespace_to_omegaconf(args)


def _options_of(kind: Any) -> set[str]:
    """Returns the names of the options that a task, or what encodes texts, adds to a parser."""
    parser = ArgumentParser()
    if hasattr(kind, "add_args"):
        kind.add_args(parser)
    elif hasattr(kind, "__dataclass"):
        gen_parser_from_dataclass(parser, getattr(kind, "__dataclass")())
    return {*vars(parser.parse_known_args(["data"])[0])}


def _checked(name: str, value: Any, default: Any) -> Any:
    """Returns the value of an option, of the kind of its default.

    Raises:
        ValueError: if it is of another.
    """
    if isinstance(value, dict):
        return str(value)  # fairseq reads dictionaries from text
    field = GenerationConfig.__dataclass_fields__.get(name)
    # fairseq has whole numbers as defaults of others.
    kind = type(default) if field is None or type(default) is not int else field.type
    if kind in (bool, int) and type(value) is not kind:
        raise ValueError(f"option {name}: expected a value such as {default!r}, got {value!r}")
    if kind is float and type(value) not in (int, float):
        raise ValueError(f"option {name}: expected a number, got {value!r}")
    return value


def _mapping(thing: Any) -> dict[str, Any]:
    """Returns a group of a configuration as options by name; a name alone as `_name`."""
    if isinstance(thing, str):
        return {"_name": thing}
    if isinstance(thing, Namespace):
        return vars(thing)
    if thing is None:
        return {}
    found: Any = OmegaConf.to_container(thing) if isinstance(thing, DictConfig) else dict(thing)
    return {str(name): value for name, value in found.items()}
