"""A decoder as a description of its tensors, and the runtime that generates with it.

Nothing here knows a framework: a front end reads a model, describes it by a `DecoderSpec`, and
drives a `Decoding`.
"""

from el_attention.decoder.freed import (
    FreedEmbedding,
    FreedModule,
    free_weights,
    stored_weight,
    weight_dtype,
)
from el_attention.decoder.narrow import NarrowWeights
from el_attention.decoder.runtime import Decoding, Step
from el_attention.decoder.specs import (
    Affine,
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    Norm,
    OutputSpec,
    PositionBias,
)

__all__ = [
    "Affine",
    "AttentionSpec",
    "DecoderSpec",
    "Decoding",
    "EmbeddingSpec",
    "FeedForwardSpec",
    "FreedEmbedding",
    "FreedModule",
    "LayerSpec",
    "NarrowWeights",
    "Norm",
    "OutputSpec",
    "PositionBias",
    "Step",
    "free_weights",
    "stored_weight",
    "weight_dtype",
]
