"""A model of Transformers and its tokenizer, from their folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
)


def load(name: str, device: str, dtype: str | None = None) -> tuple[PreTrainedModel, Any]:
    """Loads a model in evaluation mode, and its tokenizer.

    Args:
        name: folder, or name that Transformers knows.
        device: the device of the model.
        dtype: the dtype of the model, such as "float32"; None for that of the weights.

    Raises:
        ValueError: if there is no such model, or it does not load; says why.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model: Any = kind.from_pretrained(
            name,
            config=config,
            dtype="auto" if dtype is None else getattr(torch, dtype),
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made of nothing, without a file
            raise ValueError("expected a tokenizer beside it, found special tokens alone")
        return model.to(device).eval(), tokenizer
    except Exception as error:  # of as many kinds as there are files that are not as expected
        raise ValueError(
            f"model {name}: cannot be loaded: {type(error).__name__}: {error}"
        ) from error
