"""fairseq's ensemble of models, which knows prompts, beams and weights of the models."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from el_attention.attention import UNKNOWN_LENGTHS, Lengths
from el_attention.fairseq_plugin import scorer
from el_attention.fairseq_plugin.decoder import ELDecoder
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.fairseq_plugin.encoder_out import EncoderOut
from el_attention.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.sequence_generator import EnsembleModel as _Base
else:
    _Base = object

M = TypeVar("M", bound=nn.Module)


class ELEnsemble(Specialized, _Base):
    """Gives language models their prompt at once, and keeps attention weights only if asked.

    Attributes:
        beam: beams of each sentence.
        prompt: int64 [sentences, P], right-padded, of the batch being generated, or None.
        lengths: what is known of the lengths of the batch being generated.
        keep_attention: whether the generator is to record attention weights.
        weights: the models' shares in the mean of probabilities and of attention weights, positive,
            of sum 1; None for equal ones.
    """

    beam: int
    prompt: Tensor | None
    lengths: Lengths = UNKNOWN_LENGTHS
    keep_attention: bool
    weights: Sequence[float] | None = None

    def begin(
        self,
        sentences: int,
        incremental_states: list[dict[str, Any]],
        encoder_outs: Sequence[EncoderOut],
    ) -> None:
        """Tells models that are converted their beam, and gives them the prompt.

        Args:
            sentences: number of sentences.
            incremental_states: the states of every model, empty.
            encoder_outs: the outputs of all encoders, reordered for the beams; empty for
                language models.
        """
        decoders = [model.decoder for model in self.models]
        sources: list[EncoderOut | None] = [*encoder_outs] or [None] * len(decoders)
        for decoder, source in zip(decoders, sources, strict=True):
            if not (isinstance(decoder, ELDecoder) and decoder.shares_states(source)):
                return
        for decoder, state, source in zip(decoders, incremental_states, sources, strict=True):
            # Another forward may give the layers another source and other tokens.
            is_plain = decoder.el_is_plain("forward")
            if is_plain or source is None:
                decoder.begin(state, sentences, self.beam, source, self.lengths)
            if is_plain and self.prompt is not None:
                decoder.take_prompt(state, self.prompt)

    def inside_prompt(self, position: int, incremental_states: list[dict[str, Any]]) -> bool:
        """Whether the token at `position` is known of all sentences, to every model."""
        states = [DecodingState.find(state) for state in incremental_states]
        return all(
            state is not None
            and state.prompt is not None
            and bool((position < state.prompt.lengths).all())
            for state in states
        )

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: list[dict[str, list[Tensor]]],
        incremental_states: list[dict[str, Any]],
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores the next token; see fairseq's `EnsembleModel.forward_decoder`."""
        begins = tokens.size(1) == 1 and self.has_incremental
        if begins and (self.prompt is not None or not self.has_encoder()):
            self.begin(tokens.size(0) // self.beam, incremental_states, encoder_outs)
        if self.inside_prompt(tokens.size(1) - 1, incremental_states):
            # All beams of a sentence are equal there: score each sentence once.
            lprobs, attention = self._mean_of_models(
                tokens[:: self.beam], encoder_outs, incremental_states, temperature
            )
            return lprobs.repeat_interleave(self.beam, 0), attention
        lprobs, attention = self._mean_of_models(
            tokens, encoder_outs, incremental_states, temperature
        )
        return lprobs, attention if self.keep_attention else None

    def forward_align(self, *inputs: Tensor) -> Tensor:
        """Aligns with whole hypotheses; see fairseq's `EnsembleModelWithAlignment`."""
        if self.weights is None:
            aligned: Tensor = super().forward_align(*inputs)
            return aligned
        parts = [super(ELEnsemble, one).forward_align(*inputs) for one in self._each()]
        return _weighted(parts, self.weights)

    def _mean_of_models(
        self,
        tokens: Tensor,
        encoder_outs: list[dict[str, list[Tensor]]],
        incremental_states: list[dict[str, Any]],
        temperature: float,
    ) -> tuple[Tensor, Tensor | None]:
        if self.weights is None:
            return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)
        outputs = [
            super(ELEnsemble, one).forward_decoder(
                tokens,
                encoder_outs[number : number + 1],
                incremental_states[number : number + 1],
                temperature,
            )
            for number, one in enumerate(self._each())
        ]
        lprobs, attention = zip(*outputs, strict=True)
        seen = [weights for weights in attention if weights is not None]
        return (
            scorer.mean(lprobs, self.weights),
            _weighted(seen, self.weights) if len(seen) == len(outputs) else None,
        )

    def _each(self) -> Iterator[ELEnsemble]:
        """Yields an ensemble of each model alone."""
        for model in self.models:
            one = shallow_copy(self)
            one.single_model, one.models, one.models_size = model, nn.ModuleList([model]), 1
            yield one


def shallow_copy(module: M) -> M:
    """Returns a module with the same attributes and submodules, which can be replaced apart."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([part * w for part, w in zip(parts, weights, strict=True)]).sum(0)
