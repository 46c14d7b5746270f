"""Scores the next token with the converted models of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from fairseq import utils
from fairseq.models import BaseFairseqModel, FairseqDecoder
from fairseq.models.transformer import TransformerModelBase
from torch import Tensor, nn

from el_attention.cost import PROMPT_LOGITS
from el_attention.fairseq_plugin.decoder import ELDecoder
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.ops import log_sum_exp
from el_attention.plain import original
from el_attention.transfer import to_device

if TYPE_CHECKING:
    from el_attention.fairseq_plugin.ensemble import ELEnsemble

# The methods that make log-probabilities by the log-softmax of logits and nothing else.
NORMALIZATIONS = {
    "get_normalized_probs": (BaseFairseqModel, TransformerModelBase, FairseqDecoder),
    "get_normalized_probs_scriptable": (BaseFairseqModel, FairseqDecoder),
}

# The methods that, if they are not fairseq's, may read attention weights.
READERS = ("forward", "extract_features", "extract_features_scriptable", "output_layer")


def unsupported(ensemble: ELEnsemble) -> str | None:
    """Returns why `EnsembleScorer` cannot score with these models, or None if it can."""
    for model in ensemble.models:
        decoder = getattr(model, "decoder", None)
        if not isinstance(decoder, ELDecoder):
            return f"a {type(model).__name__} is not converted"
        if not decoder.shares_states():
            return f"a {type(model).__name__} shares no states"
        if decoder.adaptive_softmax is not None:
            return f"a {type(model).__name__} has an adaptive softmax"
        if not (_normalizes_plainly(original(model)) and _normalizes_plainly(decoder)):
            return f"a {type(model).__name__} normalizes probabilities in its own way"
    return None


class EnsembleScorer:
    """An `el_attention.search.Scorer`."""

    def __init__(
        self,
        ensemble: ELEnsemble,
        sentences: int,
        encoder_outs: list[dict[str, list[Tensor]]],
        temperature: float,
    ) -> None:
        """Begins a generation.

        Args:
            ensemble: the models; `unsupported` returns None for them.
            sentences: number of sentences.
            encoder_outs: outputs of all encoders, one column per beam; none for a language model.
            temperature: what logits are divided by.
        """
        self._ensemble = ensemble
        self._encoder_outs = encoder_outs
        self._temperature = temperature
        self._states: list[dict[str, Any]] = [{} for _ in ensemble.models]
        self._rows = sentences * ensemble.beam
        ensemble.begin(sentences, self._states, encoder_outs)
        for model, incremental_state in zip(ensemble.models, self._states, strict=True):
            state = DecodingState.find(incremental_state)
            if state is not None:  # else the decoder's own forward begins
                is_plain = model.decoder.el_is_plain(*READERS)
                # `beam_search` gives padding to beams of probability 0 only.
                state.records_weights = state.may_pad = not is_plain

    def score(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores every token after `tokens`; see `search.Scorer`."""
        beam = self._ensemble.beam
        # All beams of a sentence are equal there: score each sentence once.
        inside = self._ensemble.inside_prompt(tokens.size(1) - 1, self._states)
        outputs = []
        for index, model in enumerate(self._ensemble.models):
            output, _ = model.decoder.forward(
                tokens[::beam] if inside else tokens,
                encoder_out=self._encoder_outs[index] if self._encoder_outs else None,
                incremental_state=self._states[index],
            )
            outputs.append(self._tempered(output[:, -1]))
        if len(outputs) == 1:
            logits, lse = outputs[0], log_sum_exp(outputs[0])
        else:
            lprobs = [utils.log_softmax(output, dim=-1) for output in outputs]
            logits = mean(lprobs, self._ensemble.weights)
            lse = torch.zeros_like(logits[:, 0])
        if inside:
            logits, lse = logits.repeat_interleave(beam, 0), lse.repeat_interleave(beam, 0)
        return logits, lse

    def score_prefix(self, tokens: Tensor) -> Tensor | None:
        """Scores tokens of a prompt that was processed in one pass; see `search.Scorer`."""
        found = []
        for model, incremental_state in zip(self._ensemble.models, self._states, strict=True):
            state, decoder = DecodingState.find(incremental_state), model.decoder
            # Another forward may make something else of the features.
            plain = decoder.el_is_plain("forward")
            if not plain or state is None or state.prompt is None:
                return None
            found.append((state, state.prompt))
        scores = [
            self._score_tokens(model.decoder, state, prompt.features[:, : tokens.size(1)], tokens)
            for model, (state, prompt) in zip(self._ensemble.models, found, strict=True)
        ]
        return scores[0] if len(scores) == 1 else mean(scores, self._ensemble.weights)

    def reorder(self, parents: Tensor) -> None:
        """Follows the beams; see `search.Scorer`."""
        follows_on_host = all(
            model.decoder.el_follows_on_host(state)
            for model, state in zip(self._ensemble.models, self._states, strict=True)
        )
        # Rows of the same number keep their sentences, and so their sources.
        leaves = len(parents) != self._rows
        order = parents
        if leaves or not follows_on_host:
            (order,) = to_device(next(self._ensemble.parameters()).device, parents)
        self._ensemble.reorder_incremental_state(
            self._states, parents if follows_on_host else order
        )
        if leaves:
            self._encoder_outs = self._ensemble.reorder_encoder_out(self._encoder_outs, order)
            self._rows = len(parents)

    def _score_tokens(
        self, decoder: ELDecoder, state: DecodingState, features: Tensor, tokens: Tensor
    ) -> Tensor:
        """Log-probabilities of `tokens`, [G, P], where a model has `features`, [G, P, C]."""
        rows = max(1, PROMPT_LOGITS // len(decoder.dictionary))
        chunks = zip(
            features.flatten(0, 1).split(rows), tokens.reshape(-1, 1).split(rows), strict=True
        )
        scores = [self._score_chunk(decoder, state, *chunk) for chunk in chunks]
        return torch.cat(scores).view_as(tokens)

    def _score_chunk(
        self, decoder: ELDecoder, state: DecodingState, features: Tensor, tokens: Tensor
    ) -> Tensor:
        """The same for as many tokens as may have their logits at a time: [n, C] and [n, 1]."""
        logits = self._tempered(decoder.el_project(features, state))
        return logits.gather(1, tokens).squeeze(1) - log_sum_exp(logits)

    def _tempered(self, logits: Tensor) -> Tensor:
        """Applies the temperature; float64 becomes what fairseq's log-softmax makes of it."""
        if self._temperature != 1.0:
            logits = logits.div_(self._temperature)
        dtype = utils.log_softmax(logits[:0], dim=-1).dtype
        return logits if logits.dtype.itemsize <= dtype.itemsize else logits.to(dtype)


def mean(lprobs: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    """Returns the logarithm of a mean of probabilities.

    Args:
        lprobs: log-probabilities of each model, of one shape.
        weights: the models' shares, positive, of sum 1; None for equal ones, as in fairseq.
    """
    if weights is None:
        return torch.stack([*lprobs]).logsumexp(0) - math.log(len(lprobs))
    parts = [x + math.log(weight) for x, weight in zip(lprobs, weights, strict=True)]
    return torch.stack(parts).logsumexp(0)


def _normalizes_plainly(module: nn.Module) -> bool:
    return all(
        name not in vars(module)
        and getattr(type(module), name) in [getattr(owner, name) for owner in owners]
        for name, owners in NORMALIZATIONS.items()
    )
