"""fairseq's sequence generator over shared states."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.search import Sampling
from torch import Tensor, nn

from el_attention.attention import Lengths
from el_attention.fairseq_plugin import scorer
from el_attention.fairseq_plugin.ensemble import ELEnsemble, shallow_copy
from el_attention.fairseq_plugin.ngrams import NGramBlock
from el_attention.fairseq_plugin.sampling import ELSampling
from el_attention.plain import own_method
from el_attention.search import Settings, beam_search
from el_attention.search.restrictions import forbid_, prefix_is_over, prefix_lengths
from el_attention.specialize import Specialized, specialize

if TYPE_CHECKING:
    from fairseq.sequence_generator import SequenceGenerator as _Generator
else:
    _Generator = object

logger = logging.getLogger(__name__)

# What fairseq knows sources by in a batch.
_SOURCES = ("src_tokens", "source", "features")


class ELGenerator(Specialized, _Generator):
    """Searches by `beam_search` where it can, and else over the ensemble that knows the prompt.

    Attributes:
        el_announced: the reasons for fairseq's own search that have been logged.
        el_unk_penalty: what `_prefix_tokens` takes from unknown words that are not forced.
        el_ngrams_after_prefix: whether the block of n-grams leaves prefixes out.
        el_has_unread: whether the warning of prefixes that are not read to their end was given.
    """

    el_announced: set[str]
    repeat_ngram_blocker: Any
    el_unk_penalty: float = 0.0
    el_ngrams_after_prefix: bool = False
    el_has_unread: bool = False

    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
        bos_token: int | None = None,
    ) -> list[list[dict[str, Tensor]]]:
        from fairseq.search import DiverseBeamSearch

        self._take_over_block()
        self._say_unread(prefix_tokens)
        self._require_possible(constraints)
        reason = self.unsupported(sample, constraints)
        if reason is not None and reason not in self.el_announced:
            self.el_announced.add(reason)
            logger.info(f"search: fairseq's own, because {reason}")
        numbers = sample.get("id") if isinstance(self.search, DiverseBeamSearch) else None
        if isinstance(numbers, Tensor) and bool((numbers >= len(numbers)).any()):
            # It takes the numbers of sentences in the data for positions in the batch.
            sample = {name: value for name, value in sample.items() if name != "id"}
        run = self._run(sample["net_input"], prefix_tokens, bos_token)
        if reason is None:
            return run._search(sample["net_input"], prefix_tokens, bos_token)
        if prefix_tokens is not None and (self.unk_penalty or self.el_ngrams_after_prefix):
            # Only `_prefix_tokens` can tell forced words, which are not charged, from others, and
            # knows the prefixes of the sentences that are left: it is made to see every step.
            run.el_unk_penalty, run.unk_penalty = self.unk_penalty, 0.0
            rest = max(0, self._longest(sample["net_input"]) - prefix_tokens.size(1))
            prefix_tokens = nn.functional.pad(prefix_tokens, (0, rest), value=self.pad)
        return super(ELGenerator, run)._generate(
            sample, prefix_tokens=prefix_tokens, constraints=constraints, bos_token=bos_token
        )

    def _say_unread(self, prefix: Tensor | None) -> None:
        """Warns once of tokens of a prefix that stand behind an end of sentence in it."""
        if prefix is None or self.el_has_unread:
            return
        behind = prefix.eq(self.eos).cumsum(1).roll(1, 1)
        behind[:, :1] = 0
        if bool((prefix.ne(self.pad) & behind.gt(0)).any()):
            self.el_has_unread = True
            logger.warning(
                "prefix: a hypothesis ends at the first end of sentence in its prefix or prompt, "
                "as in fairseq; tokens behind it are not read"
            )

    def _require_possible(self, constraints: Tensor | None) -> None:
        """Sees to it that no constraint, as `pack_constraints` gives them, asks for the impossible.

        Raises:
            ValueError: if one holds a token that is suppressed.
        """
        if constraints is None or self.token_indices_to_suppress is None:
            return
        words = constraints[:, 1:]  # after their number, with zeros between phrases
        refused = words.ne(0) & torch.isin(words, self.token_indices_to_suppress.to(words))
        if bool(refused.any()):
            names = sorted({self.tgt_dict[token] for token in words[refused].tolist()})
            raise ValueError(
                f"constraints: expected tokens that are not suppressed, too, got {', '.join(names)}"
            )

    def _take_over_block(self) -> None:
        """Replaces fairseq's block of n-grams, which does nothing on a CPU, wherever it was set."""
        if type(self.repeat_ngram_blocker) is NGramRepeatBlock:
            size = self.repeat_ngram_blocker.no_repeat_ngram_size
            self.repeat_ngram_blocker = NGramBlock(size, self.eos)

    def _run(
        self, net_input: dict[str, Any], prefix_tokens: Tensor | None, bos_token: int | None
    ) -> ELGenerator:
        """Returns a shallow copy that holds what one run changes, for threads share this one."""
        run = shallow_copy(self)
        run.search = copy.copy(self.search)
        if type(run.search) is Sampling:
            specialize(run.search, ELSampling)
        run.repeat_ngram_blocker = copy.copy(self.repeat_ngram_blocker)
        if isinstance(run.repeat_ngram_blocker, NGramBlock):
            run.repeat_ngram_blocker = NGramBlock(
                run.repeat_ngram_blocker.size, self.eos, run.search
            )
        run.model = shallow_copy(self.model)
        run.model.beam = self.beam_size
        run.model.prompt = self._prompt(prefix_tokens, bos_token)
        run.model.lengths = self._lengths(net_input, run.model.prompt)
        return run

    def __prepare_scriptable__(self) -> Any:
        """Returns a stock copy for `torch.jit.script`; see `Specialized`.

        Raises:
            ValueError: if it has what fairseq's generators have not.
        """
        if self.model.weights is not None or self.el_ngrams_after_prefix:
            raise ValueError(
                "torch.jit.script: expected no --ensemble-weights and no "
                "--no-repeat-ngram-after-prefix, which fairseq's own search does not know"
            )
        return super().__prepare_scriptable__()

    def restore(self) -> None:
        """Makes this a generator of its original class again, with fairseq's block of n-grams."""
        blocker: Any = self.repeat_ngram_blocker
        if isinstance(blocker, NGramBlock):
            self.repeat_ngram_blocker = NGramRepeatBlock(blocker.size)
        super().restore()

    def unsupported(self, sample: dict[str, Any], constraints: Tensor | None) -> str | None:
        """Returns why `beam_search` cannot generate for a batch, or None if it can."""
        from fairseq.search import BeamSearch
        from fairseq.sequence_generator import EnsembleModel, SequenceGenerator

        for part, expected in ((self, SequenceGenerator), (self.model, EnsembleModel)):
            if part._base is not expected:
                return f"there is a {part._base.__name__}, which may do something else"
            replaced = own_method(part)
            if replaced is not None:
                return f"the {expected.__name__} has a {replaced} of its own"
        if type(self.search) is not BeamSearch:
            return f"a {type(self.search).__name__} was asked for"
        if self.model.keep_attention:
            return "attention weights are to be recorded"
        if constraints is not None:
            return "there are constraints"
        if self.lm_model is not None:
            return "scores of a language model are added"
        if not isinstance(self.repeat_ngram_blocker, NGramBlock | None):
            return f"n-grams are blocked by a {type(self.repeat_ngram_blocker).__name__}"
        if own_method(self.search) is not None:
            return f"the search has a {own_method(self.search)} of its own"
        if "src_tokens" not in sample["net_input"]:
            return "the sources are not tokens"
        return scorer.unsupported(self.model)

    def _lengths(self, net_input: dict[str, Any], prompt: Tensor | None) -> Lengths:
        """What is known of the lengths of a run; fairseq counts prefixes among generated words."""
        length = 1 if prompt is None else prompt.size(1)
        if not any(name in net_input for name in _SOURCES):  # fairseq refuses it
            return Lengths(length)
        words = length - 1
        return Lengths(length, max(0, self.min_len - words), self._longest(net_input) + 1 - words)

    def _longest(self, net_input: dict[str, Any]) -> int:
        """The most words that fairseq's own search gives a hypothesis before its eos."""
        source = next(net_input[name] for name in _SOURCES if name in net_input)
        if not self.match_source_len:
            longest = int(self.max_len_a * source.size(1) + self.max_len_b)
            return min(longest, self.max_len - 1)
        lengths = net_input.get("src_lengths")
        return source.size(1) if lengths is None else int(lengths.max())

    def _search(
        self, net_input: dict[str, Tensor], prefix: Tensor | None, bos_token: int | None
    ) -> list[list[dict[str, Tensor]]]:
        source = net_input["src_tokens"]
        sentences = torch.arange(len(source), device=source.device)
        lengths = net_input.get("src_lengths")
        if lengths is None:
            lengths = (source.ne(self.eos) & source.ne(self.pad)).sum(1)
        longest = min(int(self.max_len_a * source.size(1) + self.max_len_b), self.max_len - 1)
        settings = Settings(
            beam=self.beam_size,
            pad=self.pad,
            unk=self.unk,
            eos=self.eos,
            max_len=int(lengths.max()) if self.match_source_len else longest,
            min_len=self.min_len,
            length_penalty=self.len_penalty if self.normalize_scores else 0.0,
            unk_penalty=self.unk_penalty,
            suppressed=self.token_indices_to_suppress,
            no_repeat_ngram_size=getattr(self.repeat_ngram_blocker, "size", 0),
            ngrams_after_prefix=self.el_ngrams_after_prefix,
        )
        encoder_outs = self.model.reorder_encoder_out(
            self.model.forward_encoder(net_input), sentences.repeat_interleave(self.beam_size)
        )
        hypotheses = beam_search(
            scorer.EnsembleScorer(self.model, len(source), encoder_outs, self.temperature),
            settings,
            torch.full_like(sentences, self.eos if bos_token is None else bos_token),
            prefix,
            lengths if self.match_source_len else None,
        )
        nothing = torch.empty(0)
        return [
            [{**h._asdict(), "attention": nothing, "alignment": nothing} for h in sentence]
            for sentence in hypotheses
        ]

    def _prefix_tokens(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        tokens: Tensor,
        prefix_tokens: Tensor,
        beam_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.el_unk_penalty:
            free = prefix_tokens[:, step].eq(self.pad).repeat_interleave(beam_size)
            unk = lprobs[:, self.unk]
            lprobs[:, self.unk] = torch.where(free, unk - self.el_unk_penalty, unk)
        if self.el_ngrams_after_prefix and isinstance(self.repeat_ngram_blocker, NGramBlock):
            lengths = prefix_lengths(prefix_tokens, self.pad)
            self.repeat_ngram_blocker.skipped = lengths.repeat_interleave(beam_size)
        lprobs, tokens, scores = super()._prefix_tokens(
            step, lprobs, scores, tokens, prefix_tokens, beam_size
        )
        # fairseq sets these limits only once all prefixes are over.
        free = prefix_is_over(prefix_tokens, step, self.pad).repeat_interleave(beam_size)
        if step < self.min_len:
            forbid_(lprobs, self.eos, free)
        if self.token_indices_to_suppress is not None:
            forbid_(lprobs, self.token_indices_to_suppress, free)
        return lprobs, tokens, scores

    def _prompt(self, prefix_tokens: Tensor | None, bos_token: int | None) -> Tensor | None:
        """Returns the tokens that every beam is known to take as input, right-padded."""
        if prefix_tokens is None or (self.model.has_encoder() and self.model.keep_attention):
            return None
        # A prefix holds up to its first padding; nothing is generated after an end of sentence.
        known = prefix_tokens.ne(self.pad)
        ended = prefix_tokens.eq(self.eos).cumsum(1) - prefix_tokens.eq(self.eos).long()
        leading = (known & ended.eq(0)).long().cumprod(1).bool()
        prefix = prefix_tokens.masked_fill(~leading, self.pad)
        first = prefix.new_full((len(prefix), 1), self.eos if bos_token is None else bos_token)
        # Positions beyond the longest hypothesis are never asked for.
        longest = int(leading.sum(1).max()) if len(leading) else 0
        return torch.cat([first, prefix[:, :longest]], 1)[:, : self.max_len]


def specialize_generator(generator: _Generator) -> _Generator:
    """Specializes a `SequenceGenerator`, its ensemble and its n-gram blocking in place.

    Raises:
        ValueError: if its beam is not positive.
    """
    from fairseq.sequence_generator import SequenceGeneratorWithAlignment

    if generator.beam_size < 1:
        raise ValueError(f"beam: expected at least 1, got {generator.beam_size}")

    specialize(generator, ELGenerator)
    ensemble = specialize(generator.model, ELEnsemble)
    ensemble.beam = generator.beam_size
    ensemble.prompt = None
    generator.el_announced = set()
    generator._take_over_block()
    ensemble.keep_attention = isinstance(generator, SequenceGeneratorWithAlignment)
    return generator
