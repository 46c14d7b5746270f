"""What Transformers 4 does otherwise, so that some runs take its way."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.generation.configuration_utils import GenerationConfig

IS_4 = transformers.__version__.startswith("4.")


def unserved(model: Any, config: GenerationConfig) -> str | None:
    """Returns why Transformers 4 would give another result for a run, or None; None in 5."""
    if not IS_4:
        return None
    if model.config.model_type == "m2m_100" and config.do_sample:
        return "its forward draws random numbers that it does not use"
    if model.config.model_type == "whisper" and config.return_dict_in_generate:
        return "its generate takes the cache of the result apart"
    for module in model.modules():
        if getattr(module, "scale_attn_by_inverse_layer_idx", False) or not getattr(
            module, "scale_attn_weights", True
        ):
            return "the scale of its attention depends on the implementation"
    return None
