"""What is measured: random models of given sizes, and how much they generate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from el_attention.cost import ARCHITECTURES, Architecture, Stack

_BART, _GPT2 = ARCHITECTURES["bart.base"], ARCHITECTURES["gpt-2.small"]
_NLLB, _T5 = Stack(12, 1024, 4096, 16), Stack(12, 768, 3072, 12)
SEED = 0
POSITIONS = 1024
# Whisper's input: channels, and states of the encoder, of which two frames make one.
MEL_BINS, SOUND = 80, 1500


@dataclass(frozen=True)
class Model:
    """A model that every system can hold.

    Attributes:
        name: on the command line.
        family: "bart", "transformer" (post-norm, ReLU, sinusoidal positions) or "lm" (GPT-2), of
            which fairseq makes the weights; or "m2m_100", "t5" or "whisper", which are known to
            Transformers alone.
        sizes: its shape; one table of embeddings serves source, target and output.
        numbers: the dtype whose numbers its float32 weights are.
    """

    name: str
    family: str
    sizes: Architecture
    numbers: str = "float32"

    @property
    def is_of_fairseq(self) -> bool:
        """Whether fairseq has the family."""
        return self.family in ("bart", "transformer", "lm")

    @property
    def title(self) -> str:
        """What readers call it."""
        return f"{self.name}, {self.sizes.weights / 1e6:.0f} M weights"


MODELS = {
    model.name: model
    for model in (
        Model("bart", "bart", _BART),
        Model("bart-float16", "bart", _BART, "float16"),
        Model("transformer", "transformer", replace(_BART, name="transformer", positions=0)),
        Model("lm", "lm", _GPT2),
        Model("nllb-600m", "m2m_100", Architecture("nllb-600m", _NLLB, _NLLB, 256_206)),
        Model("t5-base", "t5", Architecture("t5-base", _T5, _T5, 32_128)),
        Model("whisper-small", "whisper", Architecture("whisper-small", _T5, _T5, 51_865)),
    )
}


def shrunk(model: Model) -> Model:
    """The same model in tiny, for tests."""
    stack = Stack(2, 32, 64, 4)
    encoder = model.sizes.encoder and stack
    return replace(model, sizes=replace(model.sizes, decoder=stack, encoder=encoder, vocabulary=97))


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        model: the model that generates.
        batch: sentences.
        beam: hypotheses of each.
        source: tokens of each source, its end of sentence included, or of each prompt, </s> first.
        steps: the number of steps of the decoder; none of the hypotheses ends before the last.
    """

    model: Model
    batch: int
    beam: int
    source: int
    steps: int

    def small(self) -> Case:
        """A case for warming up, in which systems are compared score by score."""
        return replace(
            self, batch=min(self.batch, 4), source=min(self.source, 64), steps=min(self.steps, 8)
        )

    def settings(self) -> dict[str, Any]:
        """What identifies it, as JSON."""
        return {
            "model": self.model.name,
            "batch": self.batch,
            "beam": self.beam,
            "source": self.source,
            "steps": self.steps,
        }
