"""fairseq's Transformer decoder, with one tree of states for all of its layers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

from el_attention.ops import linear
from el_attention.plugin import plain
from el_attention.plugin.attention import ELAttention
from el_attention.plugin.attention_step import acts
from el_attention.plugin.decoding import DecodingState, Prompt, Source
from el_attention.plugin.encoder_out import EncoderOut, SharedEncoderOut
from el_attention.plugin.parts import sentences_at_once
from el_attention.plugin.prefill import recorded_states
from el_attention.plugin.specialize import Specialized
from el_attention.robust.memory import trim_heap
from el_attention.state import StatePool

if TYPE_CHECKING:
    from fairseq.models.transformer import TransformerDecoderBase as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

FEATURE_METHODS = ("extract_features", "extract_features_scriptable")

Features = tuple[Tensor, dict[str, Any]]


class ELDecoder(Specialized, _Base):
    """Opens, advances and reorders the `DecodingState` that its attentions read.

    Attributes:
        el_alignment_layer: whose attention a generation records; None for the last.
        el_alignment_heads: how many of its heads are averaged; None for all.
    """

    el_alignment_layer: int | None = None
    el_alignment_heads: int | None = None
    el_announced: set[str]

    def begin(self, incremental_state: dict[str, Any], sentences: int, beam: int) -> DecodingState:
        """Starts a generation.

        Args:
            incremental_state: empty; receives the state.
            sentences: number of sentences, G.
            beam: beams of each sentence, B.
        """
        device = next(self.parameters()).device
        state = DecodingState(sentences, beam, device, self.el_announced)
        state.reordering = [m for m in self.modules() if hasattr(m, "reorder_incremental_state")]
        state.attach(incremental_state)
        return state

    def shares_states(self, encoder_out: EncoderOut | None = None) -> bool:
        """Whether a generation that begins now can share states; the log says why not.

        Args:
            encoder_out: the output of the encoder, if there is one.
        """
        device = next(self.parameters()).device.type
        reason = None
        if torch.is_autocast_enabled(device):
            reason = "autocast gives states and weights different dtypes"
        elif torch.is_grad_enabled():
            tensors = [*self.parameters(), *(encoder_out or {}).get("encoder_out", ())]
            if any(tensor.requires_grad for tensor in tensors):
                reason = "gradients are on, and shared states are written in place"
        if reason is None:
            return True
        line = f"generation: fairseq's own, because {reason}"
        if line not in self.el_announced:
            self.el_announced.add(line)
            logger.info(line)
        return False

    def can_take_prompt(self) -> bool:
        """Whether prompts can be processed in one pass with the same result."""
        dtype = next(self.parameters()).dtype
        if any(isinstance(module, FairseqDropout) and acts(module) for module in self.modules()):
            return False
        return all(module.reason_against(dtype) is None for module in self.el_attentions())

    def take_prompt(self, incremental_state: dict[str, Any], tokens: Tensor) -> None:
        """Processes prompts at once, each sentence once; on a CPU in parts of some sentences.

        Args:
            incremental_state: with a state that `begin` has just made.
            tokens: int64 [G, P], right-padded; the first is the beginning of the sequence.
        """
        state = DecodingState.find(incremental_state)
        assert state is not None
        lengths = tokens.ne(self.padding_idx).sum(1).clamp(min=1)
        # No position sees a later one, so any word may stand for the padding on the right.
        words = tokens.masked_fill(tokens.eq(self.padding_idx), self.dictionary.eos())
        state.tree.add_prompt(lengths)
        sentences = torch.arange(len(words), device=words.device)
        features = None
        for part in sentences.split(sentences_at_once(words)):
            found = self._take_part(state, words, part)
            if features is None:
                features = found.new_empty(len(words), *found.shape[1:])
            features[part] = found
            del found
            # Small states lie between what the pass has freed: the heap would grow further.
            trim_heap()
        assert features is not None
        state.prompt = Prompt(features, lengths, sentences)

    def _take_part(self, state: DecodingState, words: Tensor, part: Tensor) -> Tensor:
        """Keeps the states of prompts.

        Args:
            state: whose pools receive them.
            words: int64 [G, P], of all sentences.
            part: int64 [n], the sentences whose states are made.

        Returns:
            [n, P, C], the features.
        """
        with recorded_states() as recorded:
            features, _ = super().extract_features(words[part], None)
        for module in self.el_attentions():
            for call, states in enumerate(recorded.pop(module, ())):
                step = module.step_for(state, states)
                assert step is not None
                pool = state.pools.setdefault((module, call), StatePool())
                pool.fill(step.payload(states), part, len(words))
        return features

    def forward(self, *args: Any, **kwargs: Any) -> Features:
        """Computes logits or features; see fairseq's decoder for the arguments."""
        if cast(Any, self._base).forward in (
            TransformerDecoderBase.forward,
            TransformerDecoder.forward,
        ):
            return self._forward(*args, **kwargs)
        features: Features = super().forward(*args, **kwargs)
        return features

    def _forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut | None = None,
        incremental_state: dict[str, Any] | None = None,
        features_only: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Features:
        inputs = prev_output_tokens, encoder_out, incremental_state
        if features_only or incremental_state is None:
            return super().forward(*inputs, features_only, *args, **kwargs)
        features, extra = super().forward(*inputs, True, *args, **kwargs)
        if DecodingState.is_declined(incremental_state):
            return self.output_layer(features), extra
        return self.el_project(features), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut | None = None,
        incremental_state: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Features:
        """Computes features; see fairseq's decoder for the arguments.

        In a generation `encoder_out` holds one copy per sentence, with an index of beams.  Inside
        the prompt, tokens may be given as one row per sentence instead of one per beam.
        """
        if incremental_state is None or self._declines(incremental_state, encoder_out):
            return super().extract_features(
                prev_output_tokens, encoder_out, incremental_state, *args, **kwargs
            )
        state = DecodingState.find(incremental_state)
        for name in ("alignment_layer", "alignment_heads"):
            # fairseq's generators ask for none, where a model has been trained for some.
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self, f"el_{name}")
        source = _source(encoder_out)
        beams, age = len(prev_output_tokens), prev_output_tokens.size(1) - 1
        if source is not None and len(source.columns) != beams:
            raise ValueError(
                f"encoder_out: expected a source for each of {beams} beams, "
                f"got {len(source.columns)}"
            )
        if state is None:
            beam = _beam(source, beams)
            state = self.begin(incremental_state, beams // beam, beam)

        def step(tokens: Tensor, active: Tensor | None) -> Features:
            hidden = tokens[:, -1].eq(self.padding_idx)
            state.advance(age, hidden if hidden.any() else None, source, active)
            given = encoder_out
            if isinstance(encoder_out, SharedEncoderOut) and self.el_is_plain(
                "extract_features", "extract_features_scriptable"
            ):
                given = encoder_out.shared
            return super(ELDecoder, self).extract_features(
                tokens, given, incremental_state, *args, **kwargs
            )

        if state.prompt is None or not (inside := age < state.prompt.lengths).any():
            state.prompt = None
            return step(prev_output_tokens, None)
        features = state.prompt.at(age)
        if beams != state.tree.sentences:
            features = features.repeat_interleave(state.tree.beam, 0)
        if not inside.all():
            rows = (~inside).repeat_interleave(state.tree.beam)
            active = (~inside).nonzero().flatten()
            features[rows] = step(prev_output_tokens[rows], active)[0]
        return features, {"attn": [None], "inner_states": []}

    def reorder_incremental_state(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Follows the beams in the tree; modules that keep fairseq's state reorder their own."""
        state = DecodingState.find(incremental_state)
        if state is not None:
            state.reorder(new_order)

    def reorder_incremental_state_scripting(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Does as fairseq's method does, without a search through all modules at every step."""
        state = DecodingState.find(incremental_state)
        reorder = super().reorder_incremental_state_scripting
        plain = FairseqIncrementalDecoder.reorder_incremental_state_scripting
        if state is None or reorder.__func__ is not plain:
            reorder(incremental_state, new_order)
            return
        for module in state.reordering:
            if state.attentions.get(module) is None:  # the others follow the tree
                module.reorder_incremental_state(incremental_state, new_order)

    def _declines(self, incremental_state: dict[str, Any], encoder_out: EncoderOut | None) -> bool:
        """Whether a generation is fairseq's own, which is decided at its first step."""
        undecided = not DecodingState.is_decided(incremental_state)
        if undecided and not self.shares_states(encoder_out):
            DecodingState.decline(incremental_state)
        return DecodingState.is_declined(incremental_state)

    def el_is_plain(self, *methods: str) -> bool:
        """Whether `methods` are those of fairseq's Transformer decoder."""
        return all(
            name not in vars(self)
            and getattr(self._base, name)
            in (getattr(TransformerDecoderBase, name), getattr(TransformerDecoder, name))
            for name in methods
        )

    def el_project(self, features: Tensor) -> Tensor:
        """Returns the logits [..., vocab_size] of features [..., C] in a generation."""
        projection = self.output_projection
        if (
            self.adaptive_softmax is None
            and self.el_is_plain("output_layer")
            and plain.obstacle(projection, (nn.Linear,)) is None
        ):
            return linear(features, projection.weight, projection.bias)
        logits: Tensor = self.output_layer(features)
        return logits

    def el_attentions(self) -> list[ELAttention]:
        """All attentions that can read shared states."""
        return [module for module in self.modules() if isinstance(module, ELAttention)]


def _source(encoder_out: EncoderOut | None) -> Source | None:
    if isinstance(encoder_out, SharedEncoderOut):
        source = _source(encoder_out.shared)
        return source and replace(source, columns=encoder_out.columns, per_beam=encoder_out)
    if encoder_out is None or not encoder_out["encoder_out"]:
        return None
    states = encoder_out["encoder_out"][0]
    padding = encoder_out["encoder_padding_mask"]
    everyone = torch.arange(states.size(1), device=states.device)
    return Source(states, padding[0] if padding else None, everyone)


def _beam(source: Source | None, rows: int) -> int:
    """Finds how many rows belong to each sentence: 1 unless the source says otherwise."""
    if source is None or rows % source.states.size(1):
        return 1
    sentences = source.states.size(1)
    beam = rows // sentences
    order = torch.arange(sentences, device=source.columns.device).repeat_interleave(beam)
    return beam if torch.equal(source.columns, order) else 1
