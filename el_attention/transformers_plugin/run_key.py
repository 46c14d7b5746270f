"""What the results of a run depend on: all that must be the same where it is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import transformers

import el_attention
from el_attention.ops import extension
from el_attention.robust.description import as_text, digest, module_settings, weights_digest
from el_attention.transformers_plugin.model import ELModel
from el_attention.transformers_plugin.parts import stock_class

# State of a tokenizer that was used last with other arguments.
_OF_A_CALL = ("padding", "truncation")
# Attributes of a model that tell where it came from and what it may use, and its plan, which has a
# line of its own.
_MAY_DIFFER = ("_name_or_path", "name_or_path", "_is_hf_initialized", "el_memory_budget", "el_plan")


def run_settings(
    model: Any, tokenizer: Any, extractor: Any, options: Mapping[str, Any], seed: int
) -> dict[str, str]:
    """Describes what the results for all texts depend on, but for the texts.

    The size of batches and the memory are not among it.

    Args:
        model: as it generates.
        tokenizer: the tokenizer that makes text of tokens.
        extractor: the extractor of the features of sounds, or None.
        options: the options of `generate`.
        seed: the seed of the run.

    Returns:
        Text by name, for a journal.

    Raises:
        ValueError: if there is something that cannot be told apart in another run.
    """
    converted = isinstance(model, ELModel)
    base = stock_class(model)
    settings = {
        "version of torch": str(torch.__version__),
        "version of transformers": transformers.__version__,
        "version of el_attention": el_attention.__version__,
        "operators": "pure PyTorch" if extension.unsupported else "compiled",
        "attention plan": model.el_plan if converted else "of Transformers",
        "class": f"{base.__module__}.{base.__qualname__}",
        "device": model.device.type,
        "weights": weights_digest([model]),
        "tokenizer": _tokenizer_digest(tokenizer),
        "seed": str(seed),
    }
    if extractor is not None:
        values = extractor.to_dict()
        settings["feature extractor"] = as_text("journal: feature extractor", values)
    for name, value in module_settings(model).items():
        if name not in _MAY_DIFFER:
            settings[f"model: {name}"] = value
    for prefix, values in (
        ("config", model.config.to_dict()),
        ("generation_config", model.generation_config.to_dict()),
        ("option", dict(options)),
    ):
        for name, value in values.items():
            if name not in _MAY_DIFFER:
                settings[f"{prefix}: {name}"] = as_text(f"journal: {prefix}: {name}", value)
    return settings


def _tokenizer_digest(tokenizer: Any) -> str:
    kept = [
        type(tokenizer).__qualname__,
        sorted(tokenizer.get_vocab().items()),
        sorted(tokenizer.all_special_ids),
        getattr(tokenizer, "clean_up_tokenization_spaces", None),
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        kept.append({name: value for name, value in state.items() if name not in _OF_A_CALL})
    return digest(json.dumps(kept, sort_keys=True))
