"""Beam search: at every step, the best continuations of every sentence's beams.

The candidates of a step are the 2 B best continuations of a sentence.  Those among the first B that
end it become hypotheses; the first B that do not end it are the next beams.  A sentence is done
when it has B hypotheses, or at the longest length, where every beam ends.  The details are those of
fairseq's `SequenceGenerator`, so that the hypotheses are, too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from el_attention.ops import top_candidates
from el_attention.search.hypotheses import Hypothesis, ranked
from el_attention.search.restrictions import (
    forbid_,
    forbid_repeats_,
    prefix_is_over,
    prefix_lengths,
)
from el_attention.search.settings import Scorer, Settings
from el_attention.transfer import to_device, to_host


def beam_search(
    scorer: Scorer,
    settings: Settings,
    start: Tensor,
    prefix: Tensor | None = None,
    max_lengths: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """Finds the hypotheses of G sentences.

    Args:
        scorer: scores the next token.
        settings: the settings of the search.
        start: int64 [G], the first token of every sentence, which is in no hypothesis.
        prefix: int64 [G, P], tokens that hypotheses begin with; padding where any may follow.  An
            eos ends all beams of its sentence.
        max_lengths: int64 [G], the number of tokens before the eos beyond which a hypothesis of the
            sentence scores -inf; or None.

    Returns:
        The hypotheses of every sentence, best first.

    Raises:
        ValueError: if the limits of length exclude each other, if a prefix has padding before its
            eos, or if all ways to end a sentence have probability 0 or NaN.
    """
    if settings.min_len > settings.max_len:
        raise ValueError(
            f"min_len: expected at most max_len, {settings.max_len}, got {settings.min_len}"
        )
    search = _Search(scorer, settings, start, prefix, max_lengths)
    search.take_common_prefix()
    while search.alive:
        search.step()
    return ranked(search.finished)


class _Search:
    """The beams of the sentences that are not done.

    Attributes:
        alive: the number of every such sentence, in the order of the rows.
        finished: the hypotheses of every sentence.
    """

    def __init__(
        self,
        scorer: Scorer,
        settings: Settings,
        start: Tensor,
        prefix: Tensor | None,
        max_lengths: Tensor | None,
    ) -> None:
        self.alive = list(range(len(start)))
        self.finished: list[list[Hypothesis]] = [[] for _ in self.alive]
        self._scorer = scorer
        self._settings = settings
        self._prefix = prefix
        # bool [G, P], on the host: where the prefix ends its sentence.
        self._prefix_ends = None if prefix is None else to_host(prefix.eq(settings.eos))[0]
        self._max_lengths = max_lengths
        # Of every beam: int64 [N, T], its tokens; [N, T - 1], the sum of log-probabilities up to
        # each token; [N], the last of these sums.  Beams of a sentence begin as one: the others
        # have probability 0.
        self._tokens = self._per_beam(start.unsqueeze(1))
        self._sums = torch.zeros(len(self._tokens), 0, dtype=torch.float32, device=start.device)
        self._total: Tensor | None = None
        # bool [G, B]: beams padded with a finished hypothesis because there were too few live
        # candidates, as where beams are more than half as many as tokens.  They give no candidates.
        self._padded = start.new_zeros(len(start), settings.beam, dtype=torch.bool)

    def take_common_prefix(self) -> None:
        """Takes the tokens that are forced on all sentences at once, if the scorer can."""
        if self._prefix is None:
            return
        settings = self._settings
        forced = self._prefix.ne(settings.pad) & self._prefix.ne(settings.eos)
        length = min(int(forced.all(0).long().cumprod(0).sum()), settings.max_len)
        tokens = self._prefix[:, :length]
        lprobs = self._scorer.score_prefix(tokens) if length else None
        if lprobs is None:
            return
        lprobs = lprobs.masked_fill(lprobs.isnan(), -math.inf)
        total, sums = torch.zeros_like(lprobs[:, 0]), []
        for column in lprobs.unbind(1):  # rounded as in a search token by token
            total = total + column
            sums.append(total)
        self._tokens = torch.cat([self._tokens, self._per_beam(tokens)], 1)
        self._sums = self._per_beam(torch.stack(sums, 1))
        self._total = self._first_beams(total)

    def step(self) -> None:
        """Adds a token to every beam; takes out what has ended.

        The host waits for the device once, for the parents and for what ends.
        """
        settings, position = self._settings, self._tokens.size(1) - 1
        logits, lse = self._scorer.score(self._tokens)
        if self._total is None:
            self._total = self._first_beams(lse.new_zeros(len(self.alive)))
        logits, lse = self._restricted(logits, lse)
        # Padding is never chosen, so that at most the other tokens are candidates.
        beam, vocab_size = settings.beam, logits.size(1)
        count = min(2 * beam, (beam if position else 1) * vocab_size - 1)
        scores, index = top_candidates(logits, lse, self._total, beam, count)
        first = torch.arange(0, len(logits), beam, device=logits.device).unsqueeze(1)
        parents = index.div(vocab_size, rounding_mode="floor").add_(first)
        tokens = index.remainder(vocab_size)
        ends = tokens.eq(settings.eos).logical_and_(scores.gt(-math.inf))
        finishes = ends[:, :beam] & ~self._padded
        ends[:, :beam].logical_or_(self._padded)
        # The first candidates that do not end their sentence are the new beams; those that end come
        # last, in case there are no others.
        chosen = ends.to(torch.uint8).argsort(dim=1, stable=True)[:, :beam]
        rows = parents.gather(1, chosen)
        own_rows, finishes = to_host(rows, finishes)
        ended = finishes.nonzero()
        done = self._finish(ended, scores, parents) if len(ended) else set()
        if position == settings.max_len:
            self._stop({sentence for sentence, _ in ended.tolist()})
            return
        if len(done) == len(self.alive):
            self.alive = []
            return
        if done:
            own_rows, kept = self._drop(done, own_rows)
            chosen, rows, scores, tokens, ends = (
                x[kept] for x in (chosen, rows, scores, tokens, ends)
            )
        self._padded = ends.gather(1, chosen)
        self._total = scores.gather(1, chosen).flatten()
        self._continue(rows.flatten(), tokens.gather(1, chosen).view(-1, 1), self._total)
        self._scorer.reorder(own_rows.flatten())

    def _restricted(self, logits: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Applies the settings and the prefix to `logits`, in place where it can."""
        settings, position = self._settings, self._tokens.size(1) - 1
        inside = self._prefix is not None and position < self._prefix.size(1)
        if settings.unk_penalty:
            logits = logits.to(lse.dtype)  # half precision would round the penalty
            unk = logits[:, settings.unk]
            charged = unk - settings.unk_penalty
            if inside:  # forced tokens are not charged
                charged = torch.where(self._prefix_tokens(position).ne(settings.pad), unk, charged)
            logits[:, settings.unk] = charged
        logits[:, settings.pad] = -math.inf
        if position == settings.max_len:
            self._force(logits, torch.full_like(self._tokens[:, 0], settings.eos))
        else:
            if inside:
                logits, lse = self._one_end(position, logits, lse)
                self._force(logits, self._prefix_tokens(position))
            self._limit(logits, position)
        if settings.no_repeat_ngram_size:
            skipped = None
            if settings.ngrams_after_prefix and self._prefix is not None:
                skipped = self._per_beam(prefix_lengths(self._prefix, settings.pad))
            size, length = settings.no_repeat_ngram_size, position + 1
            forbid_repeats_(logits, self._tokens, size, length, settings.eos, skipped)
        return logits, lse

    def _prefix_tokens(self, position: int) -> Tensor:
        """The token that a prefix forces on every beam, int64 [N]; padding where any may follow."""
        assert self._prefix is not None
        return self._per_beam(self._prefix[:, position])

    def _limit(self, logits: Tensor, position: int) -> None:
        """Forbids an early eos and suppressed tokens in beams whose own prefix is over."""
        settings, free = self._settings, None
        if self._prefix is not None and position < self._prefix.size(1):
            free = self._per_beam(prefix_is_over(self._prefix, position, settings.pad))
        if position < settings.min_len:
            forbid_(logits, settings.eos, free)
        if settings.suppressed is not None:
            forbid_(logits, settings.suppressed, free)

    def _force(self, logits: Tensor, tokens: Tensor) -> None:
        """Forbids all but `tokens`, int64 [N]; nothing where that is padding."""
        index = tokens.unsqueeze(1)
        kept = logits.gather(1, index)
        logits.masked_fill_(index.ne(self._settings.pad), -math.inf).scatter_(1, index, kept)

    def _one_end(self, position: int, logits: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Makes all beams equal to the first in sentences whose prefix ends at `position`."""
        assert self._prefix is not None and self._prefix_ends is not None
        assert self._total is not None
        ending = self._prefix_ends[:, position]
        if not ending.any():
            return logits, lse
        ended, ending = to_device(logits.device, ending.nonzero().flatten(), ending)
        beam, tokens = self._settings.beam, self._tokens[:, 1:]
        given = self._prefix[ended, : tokens.size(1)]
        if not torch.equal(tokens[::beam][ended], given):
            raise ValueError(f"prefix: expected only tokens before an eos, got {given.tolist()}")
        rows = torch.arange(len(logits), device=logits.device)
        rows -= rows.remainder(beam) * self._per_beam(ending)
        self._tokens, self._sums = self._tokens[rows], self._sums[rows]
        self._total = self._total[rows]
        return logits[rows], lse[rows]

    def _finish(self, ended: Tensor, scores: Tensor, parents: Tensor) -> set[int]:
        """Keeps the candidates that end sentences that may have more hypotheses.

        Args:
            ended: int64 [n, 2], on the host, sentence and place of each.
            scores: [G, K], of all candidates.
            parents: int64 [G, K], of all candidates.

        Returns:
            The sentences that now have all, by their position.
        """
        settings = self._settings
        sentences, places = to_device(scores.device, ended)[0].unbind(1)
        rows, score = parents[sentences, places], scores[sentences, places]
        tokens = self._tokens[rows, 1:]
        tokens = torch.cat([tokens, torch.full_like(rows, settings.eos).unsqueeze(1)], 1)
        sums = torch.cat([self._sums[rows], score.unsqueeze(1)], 1)
        positional = sums.diff(dim=1, prepend=torch.zeros_like(sums[:, :1]))
        length = sums.size(1)
        score = score / length**settings.length_penalty
        if self._max_lengths is not None:
            score = score.masked_fill(length - 1 > self._max_lengths[sentences], -math.inf)
        done = set()
        for sentence, *parts in zip(
            ended[:, 0].tolist(), tokens.unbind(), score.unbind(), positional.unbind(), strict=True
        ):
            hypotheses = self.finished[self.alive[sentence]]
            if len(hypotheses) < settings.beam:
                hypotheses.append(Hypothesis(*parts))
            if len(hypotheses) == settings.beam:
                done.add(sentence)
        return done

    def _stop(self, ended: set[int]) -> None:
        """Ends the search at the longest length, at which all sentences should have `ended`."""
        for position, sentence in enumerate(self.alive):
            if position not in ended:
                raise ValueError(
                    f"sentence {sentence}: expected a finite score at some end of it, got none; "
                    "are there NaN in the logits, or is every token forbidden?"
                )
        self.alive = []

    def _drop(self, done: set[int], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Takes out the sentences that are done.

        Args:
            done: their positions.
            rows: int64 [G, B], on the host.

        Returns:
            Of the others: `rows`, on the host, and int64 [G'], on the device, their positions.
        """
        positions = [i for i in range(len(self.alive)) if i not in done]
        self.alive = [self.alive[i] for i in positions]
        here = torch.tensor(positions, dtype=torch.int64, device="cpu")
        (there,) = to_device(self._padded.device, here)
        if self._prefix is not None and self._prefix_ends is not None:
            self._prefix, self._prefix_ends = self._prefix[there], self._prefix_ends[here]
        if self._max_lengths is not None:
            self._max_lengths = self._max_lengths[there]
        return rows[here], there

    def _continue(self, rows: Tensor, tokens: Tensor, total: Tensor) -> None:
        """Lets the beams `rows`, int64 [N'], go on with `tokens`, int64 [N', 1]."""
        self._tokens = torch.cat([self._tokens.index_select(0, rows), tokens], 1)
        self._sums = torch.cat([self._sums.index_select(0, rows), total.unsqueeze(1)], 1)

    def _per_beam(self, x: Tensor) -> Tensor:
        """Repeats the rows of sentences for their beams."""
        return x.repeat_interleave(self._settings.beam, 0)

    def _first_beams(self, total: Tensor) -> Tensor:
        """Gives `total`, [G], to the first beam of every sentence, and -inf to the others."""
        beams = total.new_full((len(total), self._settings.beam), -math.inf)
        beams[:, 0] = total
        return beams.flatten()
