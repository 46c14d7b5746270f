"""Models of Transformers that are there to generate: which modules can be without their weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from el_attention.decoder import FreedEmbedding, FreedModule, free_weights
from el_attention.decoder.freed import KINDS
from el_attention.transformers_plugin.families import family_of
from el_attention.transformers_plugin.served import unserved_model


class FreedScaledEmbedding(FreedEmbedding):
    """Token embeddings with a factor, of the classes that are called ScaledWordEmbedding."""

    embed_scale: float

    def forward(self, input: Tensor) -> Tensor:
        """Returns float32 [..., E] for int64 [...]."""
        return super().forward(input) * self.embed_scale


def free(model: Any) -> None:
    """Frees float32 weights of a converted model; see `decoder.free_weights`."""
    family = family_of(model)
    if family is None or unserved_model(model) is not None:
        return
    kinds: dict[type, type[FreedModule]] = {**KINDS, Conv1D: FreedModule}
    for module in model.modules():
        # Those of decoders are what the family expects; an encoder's are of the same classes.
        if type(module).__name__.endswith("ScaledWordEmbedding"):
            kinds[type(module)] = FreedScaledEmbedding
    spec = family.describe(model, family.can_have_source(model))
    free_weights(model, spec, kinds)
