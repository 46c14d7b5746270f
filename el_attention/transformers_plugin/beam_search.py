"""Beam search by the rules of Transformers, over shared states.

As in `GenerationMixin._beam_search`: the K best continuations of a sentence are its candidates; of
the first B, those that stop compete with the hypotheses found so far for B places; the B best that
do not stop are the next beams.  A sentence whose places cannot change any more is left out of the
following steps, where Transformers goes on computing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteriaList

from el_attention.ops import log_sum_exp, top_candidates
from el_attention.transfer import to_device, to_host
from el_attention.transformers_plugin.processors import Processors
from el_attention.transformers_plugin.rules import Rules, stop_by_row

# What Transformers gives to what must not be chosen, in float32; and well above that.
NEVER = -1.0e9
ALMOST_NEVER = -1.0e8


class Model(Protocol):
    """What continues sequences."""

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns the logits [N, V], which may be overwritten, after the newest tokens [N]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Goes on with the sequences `rows`, int64 [N'], on the host, of the last step."""
        ...


@dataclass(frozen=True)
class Found:
    """What a search returns: R hypotheses of each of G sentences, best first.

    Attributes:
        tokens: int64 [G * R, T], padded by `Rules.fill`.
        scores: float32 [G * R].
        beams: int32 [G * R, T - P], the beam, counted over all sentences, that each new token
            continued; -1 at padding.  None where sentences may be left out.
        step_scores: [G * B, V] each, log-probabilities of all steps if `Rules.keeps_scores`.
        step_logits: [G * B, V] each, logits of all steps if `Rules.keeps_logits`.
    """

    tokens: Tensor
    scores: Tensor
    beams: Tensor | None
    step_scores: list[Tensor]
    step_logits: list[Tensor]


@dataclass(frozen=True)
class _Places:
    """The B best hypotheses of each of A sentences.

    Attributes:
        tokens: int64 [A, B, T].
        scores: float32 [A, B], best first; `NEVER` in empty places.
        lengths: int64 [A, B], new tokens; 0 in empty places.
        parents: int64 [A, B], the row of the beam that the last token continued.
        finished: bool [A, B], whether a hypothesis stands there.
    """

    tokens: Tensor
    scores: Tensor
    lengths: Tensor
    parents: Tensor
    finished: Tensor

    def take(self, index: Tensor) -> _Places:
        """Returns some of the sentences."""
        return _Places(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class _After:
    """What a step of A sentences leads to.

    Attributes:
        tokens: int64 [A, B, T], the next beams.
        scores: float32 [A, B], theirs, best first.
        places: the hypotheses so far.
        improvable: bool [A, 1], whether a beam may still end better than the worst place.
        rows: int64 [A, B], the row that each of the beams continues.
        certain: bool [A], whether the result of a sentence is.
        stops: bool [A, K], which candidates stop.
    """

    tokens: Tensor
    scores: Tensor
    places: _Places
    improvable: Tensor
    rows: Tensor
    certain: Tensor
    stops: Tensor


class BeamSearch:
    """One search."""

    def __init__(
        self,
        model: Model,
        rules: Rules,
        processors: Processors,
        criteria: StoppingCriteriaList,
        prompt: Tensor,
        leaves_out: bool,
    ) -> None:
        """Begins a search.

        Args:
            model: the model after its prompt.
            rules: the rules of the search.
            processors: the processors of logits or log-probabilities.
            criteria: says of sequences, int64 [n, T], and the scores of all steps, if they are
                kept, which sequences stop, bool [n].
            prompt: int64 [G * B, P], equal for the beams of a sentence.
            leaves_out: whether sentences whose result is certain may be left out.
        """
        beam = rules.beam
        self._model = model
        self._rules = rules
        self._processors = processors
        self._criteria: Any = criteria  # its hints name classes that no tensor has
        self._may_ask_again = stop_by_row(criteria)
        self._leaves_out = leaves_out
        self._prompt = prompt.size(1)
        self._tokens = prompt.view(-1, beam, self._prompt)
        sentences, device = len(self._tokens), prompt.device
        self._scores = torch.full((sentences, beam), NEVER, dtype=torch.float32, device=device)
        self._scores[:, 0] = 0.0
        self._alive = torch.arange(sentences, device=device)
        self._improvable = torch.ones(sentences, 1, dtype=torch.bool, device=device)
        self._places = _Places(
            self._tokens,
            torch.full((sentences, beam), NEVER, dtype=torch.float32, device=device),
            torch.zeros(sentences, beam, dtype=torch.int64, device=device),
            torch.zeros(sentences, beam, dtype=torch.int64, device=device),
            torch.zeros(sentences, beam, dtype=torch.bool, device=device),
        )
        self._done: list[tuple[Tensor, _Places]] = []
        # int64 [A, B] each: the row that each beam continued, of all steps.
        self._continued: list[Tensor] = []
        self._step_scores: list[Tensor] = []
        self._step_logits: list[Tensor] = []

    def run(self, logits: Tensor) -> Found:
        """Searches to the end.

        Args:
            logits: [G * B, V], after the prompt; may be overwritten, unless they are kept.
        """
        while self._step(logits):
            logits = self._model.logits(self._tokens[:, :, -1].flatten())
        self._done.append((self._alive, self._places))
        return self._result()

    def _step(self, logits: Tensor) -> bool:
        """Adds a token to every beam; returns whether to go on.

        The host waits for the device once: for what it has to know of `_After`.
        """
        rules, tokens = self._rules, self._tokens.flatten(0, 1)
        if logits.dtype == torch.float64:  # Transformers searches in float32
            logits = logits.float()
        if rules.keeps_logits:
            self._step_logits.append(logits.float())
        is_kept = rules.keeps_scores or rules.keeps_logits
        if not is_kept and self._processors.take_logits(tokens.size(1)):
            after, known = self._after_logits(tokens, logits)
        else:
            after, known = self._after_log_probs(
                self._processors(tokens, logits.float().log_softmax(-1))
            )
        rows, certain, stops = known
        self._tokens, self._scores, self._places = after.tokens, after.scores, after.places
        self._improvable = after.improvable
        if bool(certain.all()) or bool(stops.all()):
            return False
        if not self._leaves_out:
            self._continued.append(after.rows)
        elif bool(certain.any()):
            rows = rows[self._leave_out(certain)]
        self._model.reorder(rows.flatten())
        return True

    def _after_logits(self, tokens: Tensor, logits: Tensor) -> tuple[_After, Sequence[Tensor]]:
        """Takes a step without log-probabilities of all tokens, but where there is no other way.

        Args:
            tokens: int64 [A * B, T], the beams.
            logits: [A * B, V], which may be overwritten.

        Returns:
            The step, and `_After.rows`, `certain` and `stops` on the host.
        """
        rules, lse = self._rules, log_sum_exp(logits)
        logits = self._processors.forbid(tokens, logits)
        scores, index = top_candidates(
            logits, lse, self._scores.flatten(), rules.beam, rules.candidates
        )
        # Where there are not enough continuations, it is rounding that Transformers orders by.
        # After NaN it orders by chance.
        enough = lse.isfinite().all() & (scores[:, -1] > ALMOST_NEVER).all()
        # The host learns that together with all else, if criteria may be asked again about a step.
        if self._may_ask_again or bool(enough):
            after = self._after(scores, index, logits.size(1))
            *known, enough = to_host(after.rows, after.certain, after.stops, enough)
            if bool(enough):
                return after, known
        lse = lse.masked_fill(~lse.isfinite(), torch.nan)
        return self._after_log_probs(logits.float() - lse.unsqueeze(1))

    def _after_log_probs(self, log_probs: Tensor) -> tuple[_After, Sequence[Tensor]]:
        """Takes a step as Transformers does, by log-probabilities [A * B, V]."""
        rules = self._rules
        if rules.keeps_scores:
            self._step_scores.append(log_probs)
        sums = log_probs.view(len(self._alive), rules.beam, -1) + self._scores.unsqueeze(2)
        after = self._after(*sums.flatten(1).topk(rules.candidates), log_probs.size(1))
        return after, to_host(after.rows, after.certain, after.stops)

    def _after(self, scores: Tensor, index: Tensor, vocab_size: int) -> _After:
        """Finds out what follows from candidates, best first; changes nothing.

        Args:
            scores: [A, K].
            index: int64 [A, K], parent * V + token.
            vocab_size: number of tokens, V.
        """
        rules, beam = self._rules, self._rules.beam
        parents, newest = index // vocab_size, index % vocab_size
        first = torch.arange(0, len(scores) * beam, beam, device=scores.device).unsqueeze(1)
        sequences = _gathered(self._tokens, parents)
        sequences = torch.cat([sequences, newest.unsqueeze(2)], 2)
        kept = tuple(self._step_scores) if rules.keeps_scores else None
        stops = self._criteria(sequences.flatten(0, 1), kept).view(scores.shape)
        rows = parents + first
        places = self._compete(sequences, scores, rows, stops)
        best = (scores + stops.to(scores.dtype) * NEVER).topk(beam)
        improvable = self._look_ahead(places, best.values, sequences.size(2))
        certain = ~improvable.squeeze(1)
        if rules.early_stopping is True:
            certain = certain | places.finished.all(1)
        tokens, rows = _gathered(sequences, best.indices), rows.gather(1, best.indices)
        return _After(tokens, best.values, places, improvable, rows, certain, stops)

    def _compete(self, sequences: Tensor, scores: Tensor, rows: Tensor, stops: Tensor) -> _Places:
        """Lets the candidates [A, K] that stop compete for the places of their sentences."""
        rules, places = self._rules, self._places
        new = sequences.size(2) - self._prompt
        ends = stops.clone()
        ends[:, rules.beam :] = False
        scores = scores / new**rules.length_penalty
        if rules.early_stopping is True:
            scores += places.finished.all(1, keepdim=True).to(scores.dtype) * NEVER
        scores += (~self._improvable).to(scores.dtype) * NEVER
        scores += (~ends).to(scores.dtype) * NEVER
        best = torch.cat([places.scores, scores], 1).topk(rules.beam)
        chosen = best.indices
        held = self._padded(places.tokens, sequences.size(2))
        lengths = torch.nn.functional.pad(places.lengths, (0, scores.size(1)), value=new)
        return _Places(
            _gathered(torch.cat([held, sequences], 1), chosen),
            best.values,
            lengths.gather(1, chosen),
            torch.cat([places.parents, rows], 1).gather(1, chosen),
            torch.cat([places.finished, ends], 1).gather(1, chosen),
        )

    def _look_ahead(self, places: _Places, scores: Tensor, longest: int) -> Tensor:
        """Finds out which sentences may still improve, by the estimate of Transformers.

        Args:
            places: the hypotheses so far.
            scores: [A, B], of the beams, best first.
            longest: number of their tokens.

        Returns:
            bool [A, 1].
        """
        rules = self._rules
        if rules.early_stopping == "never" and rules.length_penalty > 0.0:
            longest = rules.max_length
        best = scores[:, :1] / (longest - self._prompt) ** rules.length_penalty
        worst = places.scores.min(1, keepdim=True).values
        worst = torch.where(places.finished, worst, NEVER)
        return self._improvable & (best > worst).any(1, keepdim=True)

    def _leave_out(self, certain: Tensor) -> Tensor:
        """Takes sentences out of the search.

        Args:
            certain: bool [A], on the host, which.

        Returns:
            int64 [A'], on the host, the numbers of the others.
        """
        numbers = certain.nonzero().squeeze(1), (~certain).nonzero().squeeze(1)
        left, kept = to_device(self._tokens.device, *numbers)
        self._done.append((self._alive[left], self._places.take(left)))
        self._places = self._places.take(kept)
        self._alive, self._improvable = self._alive[kept], self._improvable[kept]
        self._tokens, self._scores = self._tokens[kept], self._scores[kept]
        return numbers[1]

    def _padded(self, tokens: Tensor, length: int) -> Tensor:
        """Makes sequences [..., T] `length` tokens long, by `Rules.fill`."""
        missing = length - tokens.size(-1)
        return torch.nn.functional.pad(tokens, (0, missing), value=self._rules.fill)

    def _result(self) -> Found:
        rules = self._rules
        lengths = torch.cat([places.lengths[:, : rules.returned] for _, places in self._done])
        longest = int(lengths.max())
        order = torch.cat([sentences for sentences, _ in self._done]).argsort()

        def joined(parts: Iterable[Tensor]) -> Tensor:
            return torch.cat(list(parts))[order, : rules.returned].flatten(0, 1)

        length = self._prompt + longest
        return Found(
            joined(self._padded(places.tokens, length) for _, places in self._done),
            joined(places.scores for _, places in self._done),
            None if self._leaves_out else self._beams(longest),
            self._step_scores,
            self._step_logits,
        )

    def _beams(self, longest: int) -> Tensor:
        """Returns `Found.beams`, followed from the last tokens to the first."""
        ends = self._places.lengths[:, : self._rules.returned].flatten() - 1
        rows = self._places.parents[:, : self._rules.returned].flatten()
        beams = []
        for step in reversed(range(longest)):
            beams.append(rows.masked_fill(ends < step, -1))
            if step:
                before = self._continued[step - 1].flatten()[rows]
                rows = torch.where(ends < step, rows, before)
        return torch.stack(beams[::-1], 1).to(torch.int32)


def _gathered(sequences: Tensor, index: Tensor) -> Tensor:
    """Returns sequences [A, n, T] for sequences [A, m, T] and int64 [A, n]."""
    return sequences.gather(1, index.unsqueeze(2).expand(-1, -1, sequences.size(2)))
