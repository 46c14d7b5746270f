"""Reads a checkpoint of one framework and writes it for the other."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from el_attention.exchange import options
from el_attention.exchange.weights import (
    bart_rules,
    gpt2_rules,
    parameters,
    to_fairseq,
    to_transformers,
)

CHECKPOINT, DICTIONARY = "model.pt", "dict.txt"


def convert_checkpoint(source: Path, target: Path, dictionary: Path | None = None) -> str:
    """Converts a checkpoint of fairseq for Transformers, or the reverse.

    Weights keep their bits, and tokens their numbers: token n of Transformers is number n of
    fairseq's dictionary. No tokenizer is converted; the dictionary goes along.

    Args:
        source: a checkpoint file of fairseq, or a folder that Transformers saved.
        target: a folder, which must not exist yet. For fairseq it gets `model.pt` and dictionaries.
        dictionary: fairseq's; None for `dict.txt` beside the weights.

    Returns:
        One line about what was written.

    Raises:
        ImportError: if fairseq or Transformers cannot be imported.
        OSError: if files cannot be read or written.
        ValueError: if the model or one of its options has no counterpart, or the dictionary is of
            other weights.
    """
    if target.exists():
        raise ValueError(f"{target}: expected a new folder, there is one already")
    if dictionary is None:
        dictionary = (source if source.is_dir() else source.parent) / DICTIONARY
    if not dictionary.is_file():
        raise ValueError(f"{dictionary}: expected the dictionary of fairseq, got no such file")
    if source.is_dir():
        return _write_fairseq(source, target, dictionary)
    return _write_transformers(source, target, dictionary)


def _write_transformers(source: Path, target: Path, dictionary: Path) -> str:
    import transformers

    model, rows = _load_fairseq(source, dictionary)
    state = parameters(model.state_dict())
    kind = type(model).__name__
    network: Any
    if kind == "BARTModel":
        settings = options.bart_config(model.cfg, rows)
        rules = bart_rules(settings["encoder_layers"], settings["decoder_layers"])
        network = transformers.BartForConditionalGeneration(transformers.BartConfig(**settings))
        # fairseq never generates padding or nothing at all, and ends have their own scores.
        network.generation_config.forced_eos_token_id = None
        network.generation_config.suppress_tokens = [options.TOKENS["pad_token_id"]]
        network.generation_config.begin_suppress_tokens = [options.TOKENS["eos_token_id"]]
        weights = to_transformers(rules, state)
        weights["final_logits_bias"] = torch.zeros_like(network.final_logits_bias)
    elif kind == "TransformerLanguageModel":
        settings = options.gpt2_config(model.decoder.cfg, rows)
        rules = gpt2_rules(settings["n_layer"])
        network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
        network.generation_config.suppress_tokens = [options.TOKENS["pad_token_id"]]
        weights = to_transformers(rules, state)
    else:
        raise ValueError(
            f"{source}: expected a BARTModel or a TransformerLanguageModel of fairseq, got a {kind}"
        )
    network.to(next(iter(weights.values())).dtype)
    network.load_state_dict(weights)
    network.save_pretrained(target)
    shutil.copyfile(dictionary, target / DICTIONARY)
    return f"{target}: {type(network).__name__}, {_counted(state)}"


def _write_fairseq(source: Path, target: Path, dictionary: Path) -> str:
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    network: Any
    if config.model_type == "bart":
        args = options.bart_arguments(config)
        rules = bart_rules(config.encoder_layers, config.decoder_layers)
        network = transformers.BartForConditionalGeneration.from_pretrained(source, dtype="auto")
    elif config.model_type == "gpt2":
        args = options.gpt2_arguments(config)
        rules = gpt2_rules(config.n_layer)
        network = transformers.GPT2LMHeadModel.from_pretrained(source, dtype="auto")
    else:
        raise ValueError(f"{source}: expected a BART or a GPT-2, got a {config.model_type}")
    state = dict(network.state_dict())
    bias = state.pop("final_logits_bias", None)
    if bias is not None and bool(bias.any()):
        raise ValueError(f"{source}: final_logits_bias: expected zeros, as fairseq has none")
    weights = to_fairseq(rules, state)
    names = [DICTIONARY]
    if args.task == "translation":
        names += [f"dict.{language}.txt" for language in (args.source_lang, args.target_lang)]
    target.mkdir(parents=True)
    for name in names:
        shutil.copyfile(dictionary, target / name)
    save_checkpoint(args, weights, target / CHECKPOINT)
    try:
        # fairseq builds the model from the options alone, and checks names and shapes.
        _load_fairseq(target / CHECKPOINT, target / DICTIONARY)
    except BaseException:
        shutil.rmtree(target)
        raise
    return f"{target}: {args.arch}, {_counted(weights)}"


def save_checkpoint(args: Namespace, weights: dict[str, Tensor], path: Path) -> None:
    """Writes a checkpoint as fairseq-train does.

    Args:
        args: options of fairseq-train.
        weights: parameters by name.
        path: the path of the file.
    """
    history = {"criterion_name": "CrossEntropyCriterion", "optimizer_name": "FairseqAdam"}
    # Without it fairseq takes a decoder for one of its first, which had no final norm.
    version = torch.tensor([3.0])
    sides = {name.split(".")[0] for name in weights}
    checkpoint = {
        "args": args,
        "model": {**weights, **{f"{side}.version": version for side in sides}},
        "optimizer_history": [{**history, "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(checkpoint, path)


def _load_fairseq(path: Path, dictionary: Path) -> tuple[Any, int]:
    """Returns the model of a checkpoint, in its dtype, and the rows of its table of tokens.

    Raises:
        ValueError: if the dictionary has another number of words, or weights are of float64.
    """
    from fairseq import checkpoint_utils
    from fairseq.data import Dictionary

    with TemporaryDirectory() as data:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path), arg_overrides={"data": data})
        table, task = state["model"]["decoder.embed_tokens.weight"], state["cfg"]["task"]
        if table.dtype == torch.float64:
            raise ValueError(f"{path}: expected weights that fairseq loads, got float64")
        words = len(Dictionary.load(str(dictionary)))
        masked = task._name == "denoising"  # which adds <mask>
        if words + masked != len(table):
            raise ValueError(
                f"{dictionary}: expected {len(table) - masked} words, special ones included, as "
                f"many as the weights have rows, got {words}"
            )
        languages = (getattr(task, name, None) for name in ("source_lang", "target_lang"))
        for name in (DICTIONARY, *(f"dict.{language}.txt" for language in languages)):
            shutil.copyfile(dictionary, Path(data, name))
        models, _ = checkpoint_utils.load_model_ensemble([str(path)], state=state)
    return models[0].eval().to(table.dtype), len(table)


def _counted(weights: dict[str, Tensor]) -> str:
    return f"{len(weights)} parameters, {sum(x.numel() for x in weights.values())} numbers"
