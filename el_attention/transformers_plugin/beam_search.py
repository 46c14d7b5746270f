"""Beam search by the rules of Transformers, over shared states.

As in `GenerationMixin._beam_search`: the K best continuations of a sentence are its candidates; of
the first B, those that stop compete with the hypotheses found so far for B places; the B best that
do not stop are the next beams.  A sentence whose places cannot change any more is left out of the
following steps, where Transformers goes on computing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers.generation import stopping_criteria as stopping
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteriaList

from el_attention.ops import log_sum_exp, top_candidates
from el_attention.transformers_plugin.processors import Processors

# What Transformers gives to what must not be chosen, in float32; and well above that.
NEVER = -1.0e9
ALMOST_NEVER = -1.0e8

_BY_ROW = (
    stopping.EosTokenCriteria,
    stopping.MaxLengthCriteria,
    stopping.MaxTimeCriteria,
    stopping.StopStringCriteria,
)


class Model(Protocol):
    """What continues sequences."""

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns the logits [N, V], which may be overwritten, after the newest tokens [N]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Goes on with the sequences `rows`, int64 [N'], of the last step."""
        ...


@dataclass(frozen=True)
class Rules:
    """The options of a search, as `GenerationConfig` has them.

    Attributes:
        beam: beams of each sentence, B.
        candidates: continuations of each sentence that are looked at, K.
        returned: hypotheses of each sentence that are returned.
        max_length: most tokens of a sequence, the prompt included.
        early_stopping: True, False or "never".
        length_penalty: scores are divided by the number of new tokens to this power.
        fill: token behind the end of a sequence.
    """

    beam: int
    candidates: int
    returned: int
    max_length: int
    early_stopping: bool | str
    length_penalty: float
    fill: int


def rules_of(config: GenerationConfig, vocab_size: int) -> Rules | None:
    """Returns the rules of a search; None if it draws, or returns more than sequences."""
    if config.do_sample or config.return_dict_in_generate or config.low_memory:
        return None
    pad, eos = config._pad_token_tensor, config._eos_token_tensor
    ends = 0 if eos is None else len(eos)
    candidates = max(2, 1 + ends) * config.num_beams
    if candidates > config.num_beams * vocab_size:
        return None
    fill = -1
    if eos is not None:  # a padding token of 0 is taken for none
        fill = int(pad) if pad else int(eos[0])
    return Rules(
        beam=config.num_beams,
        candidates=candidates,
        returned=config.num_return_sequences,
        max_length=config.max_length,
        early_stopping=config.early_stopping,
        length_penalty=config.length_penalty,
        fill=fill,
    )


def stop_by_row(criteria: StoppingCriteriaList) -> bool:
    """Whether each sequence stops without the others, and whatever its number."""
    return all(type(criterion) in _BY_ROW for criterion in criteria)


@dataclass
class _Places:
    """The B best hypotheses of each of A sentences.

    Attributes:
        tokens: int64 [A, B, T].
        scores: float32 [A, B], best first; `NEVER` in empty places.
        lengths: int64 [A, B], new tokens; 0 in empty places.
        finished: bool [A, B], whether a hypothesis stands there.
    """

    tokens: Tensor
    scores: Tensor
    lengths: Tensor
    finished: Tensor

    def take(self, index: Tensor) -> _Places:
        """Returns some of the sentences."""
        return _Places(
            self.tokens[index], self.scores[index], self.lengths[index], self.finished[index]
        )


class BeamSearch:
    """One search."""

    def __init__(
        self,
        model: Model,
        rules: Rules,
        processors: Processors,
        criteria: Callable[[Tensor, None], Tensor],
        prompt: Tensor,
        leaves_out: bool,
    ) -> None:
        """Begins a search.

        Args:
            model: the model after its prompt.
            rules: the rules of the search.
            processors: the processors of logits or log-probabilities.
            criteria: says of sequences, int64 [n, T], which stop, bool [n].
            prompt: int64 [G * B, P], equal for the beams of a sentence.
            leaves_out: whether sentences whose result is certain may be left out.
        """
        beam = rules.beam
        self._model = model
        self._rules = rules
        self._processors = processors
        self._criteria = criteria
        self._leaves_out = leaves_out
        self._prompt = prompt.size(1)
        self._tokens = prompt.view(-1, beam, self._prompt)
        sentences, device = len(self._tokens), prompt.device
        self._scores = torch.full((sentences, beam), NEVER, device=device)
        self._scores[:, 0] = 0.0
        self._alive = torch.arange(sentences, device=device)
        # bool [A, 1]: whether a beam may still end better than the worst place.
        self._improvable = torch.ones(sentences, 1, dtype=torch.bool, device=device)
        self._places = _Places(
            self._tokens,
            torch.full((sentences, beam), NEVER, device=device),
            torch.zeros(sentences, beam, dtype=torch.int64, device=device),
            torch.zeros(sentences, beam, dtype=torch.bool, device=device),
        )
        self._done: list[tuple[Tensor, _Places]] = []

    def run(self, logits: Tensor) -> Tensor:
        """Searches to the end.

        Args:
            logits: [G * B, V], after the prompt; may be overwritten.

        Returns:
            int64 [G * returned, T], the sequences, best first, padded by `Rules.fill`.
        """
        while self._step(logits):
            logits = self._model.logits(self._tokens[:, :, -1].flatten())
        self._done.append((self._alive, self._places))
        return self._result()

    def _step(self, logits: Tensor) -> bool:
        """Adds a token to every beam; returns whether to go on."""
        beam = self._rules.beam
        scores, index = self._candidates(logits)
        parents, newest = index // logits.size(1), index % logits.size(1)
        sequences = _gathered(self._tokens, parents)
        sequences = torch.cat([sequences, newest.unsqueeze(2)], 2)
        stops = self._criteria(sequences.flatten(0, 1), None).view(scores.shape)
        self._compete(sequences, scores, stops)
        running = scores + stops.to(scores.dtype) * NEVER
        chosen = running.topk(beam).indices
        self._tokens = _gathered(sequences, chosen)
        self._scores = running.gather(1, chosen)
        self._look_ahead()
        certain = ~self._improvable.squeeze(1)
        if self._rules.early_stopping is True:
            certain = certain | self._places.finished.all(1)
        if bool(certain.all()) or bool(stops.all()):
            return False
        first = torch.arange(0, len(scores) * beam, beam, device=scores.device)
        rows = parents.gather(1, chosen) + first.unsqueeze(1)
        if self._leaves_out and bool(certain.any()):
            rows = rows[self._leave_out(certain)]
        self._model.reorder(rows.flatten())
        return True

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores, best first, and numbers (parent * V + token) of candidates, [A, K]."""
        rules, tokens = self._rules, self._tokens.flatten(0, 1)
        if logits.dtype == torch.float64:  # Transformers searches in float32
            logits = logits.float()
        if self._processors.take_logits(tokens.size(1)):
            lse = log_sum_exp(logits)
            kept = self._processors.forbid(tokens, logits)
            scores, index = top_candidates(
                kept, lse, self._scores.flatten(), rules.beam, rules.candidates
            )
            # Where there are not enough continuations, it is rounding that Transformers orders
            # by. After NaN it orders by chance.
            if bool(lse.isfinite().all()) and bool((scores[:, -1] > ALMOST_NEVER).all()):
                return scores, index
        log_probs = self._processors(tokens, logits.float().log_softmax(-1))
        log_probs = log_probs.view(len(self._alive), rules.beam, -1) + self._scores.unsqueeze(2)
        best = log_probs.flatten(1).topk(rules.candidates)
        return best.values, best.indices

    def _compete(self, sequences: Tensor, scores: Tensor, stops: Tensor) -> None:
        """Lets the candidates [A, K] that stop compete for the places of their sentences."""
        rules, places = self._rules, self._places
        new = self._tokens.size(2) + 1 - self._prompt
        ends = stops.clone()
        ends[:, rules.beam :] = False
        scores = scores / new**rules.length_penalty
        if rules.early_stopping is True:
            scores += places.finished.all(1, keepdim=True).to(scores.dtype) * NEVER
        scores += (~self._improvable).to(scores.dtype) * NEVER
        scores += (~ends).to(scores.dtype) * NEVER
        all_scores = torch.cat([places.scores, scores], 1)
        chosen = all_scores.topk(rules.beam).indices
        held = self._padded(places.tokens, sequences.size(2))
        lengths = torch.nn.functional.pad(places.lengths, (0, scores.size(1)), value=new)
        self._places = _Places(
            _gathered(torch.cat([held, sequences], 1), chosen),
            all_scores.gather(1, chosen),
            lengths.gather(1, chosen),
            torch.cat([places.finished, ends], 1).gather(1, chosen),
        )

    def _look_ahead(self) -> None:
        """Finds out which sentences may still improve, by the estimate of Transformers."""
        rules, places = self._rules, self._places
        longest = self._tokens.size(2)
        if rules.early_stopping == "never" and rules.length_penalty > 0.0:
            longest = rules.max_length
        best = self._scores[:, :1] / (longest - self._prompt) ** rules.length_penalty
        worst = places.scores.min(1, keepdim=True).values
        worst = torch.where(places.finished, worst, NEVER)
        self._improvable = self._improvable & (best > worst).any(1, keepdim=True)

    def _leave_out(self, certain: Tensor) -> Tensor:
        """Takes sentences, bool [A], out of the search; returns the numbers of the others."""
        left, kept = certain.nonzero().squeeze(1), (~certain).nonzero().squeeze(1)
        self._done.append((self._alive[left], self._places.take(left)))
        self._places = self._places.take(kept)
        self._alive, self._improvable = self._alive[kept], self._improvable[kept]
        self._tokens, self._scores = self._tokens[kept], self._scores[kept]
        return kept

    def _padded(self, tokens: Tensor, length: int) -> Tensor:
        """Makes sequences [..., T] `length` tokens long, by `Rules.fill`."""
        missing = length - tokens.size(-1)
        return torch.nn.functional.pad(tokens, (0, missing), value=self._rules.fill)

    def _result(self) -> Tensor:
        returned, length = self._rules.returned, self._prompt
        for _, places in self._done:
            length = max(length, self._prompt + int(places.lengths[:, :returned].max()))
        order = torch.cat([sentences for sentences, _ in self._done]).argsort()
        tokens = torch.cat(
            [self._padded(places.tokens[:, :returned], length) for _, places in self._done]
        )
        return tokens[order].flatten(0, 1)


def _gathered(sequences: Tensor, index: Tensor) -> Tensor:
    """Returns sequences [A, n, T] for sequences [A, m, T] and int64 [A, n]."""
    return sequences.gather(1, index.unsqueeze(2).expand(-1, -1, sequences.size(2)))
