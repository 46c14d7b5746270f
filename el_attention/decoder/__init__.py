"""A decoder as a description of its tensors, and the runtime that generates with it.

Nothing here knows a framework: a front end reads a model, describes it by a `DecoderSpec`, and
drives a `Decoding`.
"""

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
    "LayerSpec",
    "NarrowWeights",
    "Norm",
    "OutputSpec",
    "PositionBias",
    "Step",
]
