"""Random weights: made by fairseq, written as a checkpoint, converted for the other systems."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from fairseq import models
from fairseq.data import Dictionary
from torch import Tensor

from benchmarks.cases import MEL_BINS, POSITIONS, SEED, SOUND, Case, Model
from benchmarks.random_task import RandomTask, make_decisive

CHECKPOINT = "model.pt"
ARCHITECTURES = {"bart": "bart_base", "transformer": "transformer", "lm": "transformer_lm_gpt"}
LANGUAGES = ("source", "target")


def arguments(model: Model) -> Namespace:
    """The options of fairseq-train that describe a model."""
    sizes = model.sizes
    if sizes.encoder is None:
        task: dict[str, Any] = {
            "task": "language_modeling",
            "tokens_per_sample": POSITIONS,
            "decoder_learned_pos": True,
            "no_scale_embedding": True,
            "activation_fn": "gelu_accurate",  # by the tanh, as GPT-2 has it
            "share_decoder_input_output_embed": True,
            "decoder_input_dim": sizes.decoder.width,
            "decoder_output_dim": sizes.decoder.width,
        }
    else:
        task = {
            "task": "translation",
            "source_lang": LANGUAGES[0],
            "target_lang": LANGUAGES[1],
            "share_all_embeddings": True,
        }
    for side, stack in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        if stack is not None:
            task |= {
                f"{side}_layers": stack.layers,
                f"{side}_embed_dim": stack.width,
                f"{side}_ffn_embed_dim": stack.ffn,
                f"{side}_attention_heads": stack.heads,
            }
    positions = {"max_source_positions": POSITIONS, "max_target_positions": POSITIONS}
    args = Namespace(arch=ARCHITECTURES[model.family], **positions, **task)
    models.ARCH_CONFIG_REGISTRY[args.arch](args)
    return args


def symbols_of(model: Model) -> Dictionary:
    """The dictionary of a model."""
    return RandomTask(model.sizes.vocabulary - RandomTask(0).symbols.nspecial).symbols


def write_checkpoint(model: Model, folder: Path) -> None:
    """Writes random weights and dictionaries as fairseq-train and fairseq-preprocess do."""
    torch.manual_seed(SEED)
    args, symbols = arguments(model), symbols_of(model)
    network = models.build_model(args, RandomTask(len(symbols) - symbols.nspecial))
    make_decisive(network, model.sizes.decoder.width, source=0.5)
    # Padding and end of sentence get logit 0, and so no probability worth mention: systems forbid
    # them in different ways, some before the softmax and some after it.
    network.decoder.embed_tokens.weight.data[[symbols.pad(), symbols.eos()]] = 0
    network.to(getattr(torch, model.numbers)).float()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dict.txt", *(f"dict.{language}.txt" for language in LANGUAGES)):
        symbols.save(str(folder / name))
    history = {"criterion_name": "CrossEntropyCriterion", "optimizer_name": "FairseqAdam"}
    checkpoint = {
        "args": args,
        "model": network.state_dict(),
        "optimizer_history": [{**history, "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(checkpoint, folder / CHECKPOINT)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint by their names in fairseq."""
    weights: dict[str, Tensor] = torch.load(folder / CHECKPOINT)["model"]
    return weights


def sources_of(case: Case) -> Tensor:
    """Random sources or prompts of a case: int64 [batch, source], or float32 sounds.

    Sounds are [batch, MEL_BINS, 2 * SOUND], whatever the length of sources.
    """
    symbols = Dictionary()
    generator = torch.Generator().manual_seed(SEED)
    if case.model.family == "whisper":
        return torch.randn(case.batch, MEL_BINS, 2 * SOUND, generator=generator)
    shape = (case.batch, case.source)
    words = torch.randint(symbols.nspecial, case.model.sizes.vocabulary, shape, generator=generator)
    words[:, 0 if case.model.sizes.encoder is None else -1] = symbols.eos()
    return words
