"""Tiny models that hear, and what makes features of sounds for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from manytexts import tokenizer_of
from transformers_models import build

SPECIAL = {"<|en|>": 40, "<|fr|>": 41, "transcribe": 42, "translate": 43}


def speech_model(dtype: torch.dtype = torch.float64) -> Any:
    """A model that speaks of languages, tasks and times."""
    model = build("whisper", dtype, vocab_size=67, decoder_start_token_id=3)
    for name, value in {
        "is_multilingual": True,
        "lang_to_id": {name: SPECIAL[name] for name in ("<|en|>", "<|fr|>")},
        "task_to_id": {name: SPECIAL[name] for name in ("transcribe", "translate")},
        "prev_sot_token_id": 44,
        "no_timestamps_token_id": 45,
        "max_initial_timestamp_index": 4,
        "alignment_heads": [[0, 1], [1, 2]],
        "suppress_tokens": [5, 6],
        "begin_suppress_tokens": [7, 2],
        "max_length": 14,
    }.items():
        setattr(model.generation_config, name, value)
    return model


class Processor:
    """Features of sounds, and text of tokens."""

    def __init__(self, feature_extractor: Any) -> None:
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer_of("bart")


def hearing(name: str) -> tuple[Any, Any]:
    """A model and its processor."""
    import transformers

    extractor: Any
    if name == "whisper":
        # Frames of 25 ms, so that a sound of a second has as many as the tiny model hears.
        extractor = transformers.WhisperFeatureExtractor(
            feature_size=5, hop_length=400, chunk_length=1
        )
        model = speech_model()
    else:
        extractor = transformers.Speech2TextFeatureExtractor(feature_size=5, num_mel_bins=5)
        model = build("speech_to_text", vocab_size=30)
    for parameter_name, parameter in model.named_parameters():
        if "encoder_attn.out_proj.weight" in parameter_name:
            parameter.data.mul_(20)
    return model, Processor(extractor)


def sounds(*lengths: int) -> list[np.ndarray]:
    """Noises of so many samples, float32."""
    noise = np.random.default_rng(3)
    return [noise.standard_normal(length).astype(np.float32) / 4 for length in lengths]
