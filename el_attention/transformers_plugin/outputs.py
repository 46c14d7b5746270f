"""What `generate` returns of a search where more than sequences is asked for."""

from __future__ import annotations

from typing import Any

from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.utils import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
)

from el_attention.transformers_plugin.beam_search import Found


def output_of(
    found: Found, config: GenerationConfig, has_encoder: bool, **cache: Any
) -> GenerateBeamDecoderOnlyOutput | GenerateBeamEncoderDecoderOutput:
    """Returns the output of `generate`, as of Transformers' own search.

    Args:
        found: what the search found, which left no sentence out.
        config: the configuration of the run.
        has_encoder: whether the model has an encoder.
        cache: the cache of the run, by the name that this version of Transformers has for it.
    """
    kind: Any = GenerateBeamDecoderOnlyOutput
    if has_encoder:
        kind = GenerateBeamEncoderDecoderOutput
    return kind(
        sequences=found.tokens,
        sequences_scores=found.scores if config.output_scores else None,
        scores=tuple(found.step_scores) if config.output_scores else None,
        logits=tuple(found.step_logits) if config.output_logits else None,
        beam_indices=found.beams,
        **cache,
    )
