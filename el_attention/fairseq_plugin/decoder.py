"""fairseq's Transformer decoder, with one tree of states for all of its layers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import BaseLayer, LayerDropModuleList, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayer, TransformerDecoderLayerBase
from torch import Tensor

from el_attention.attention import SELF, UNKNOWN_LENGTHS, Lengths, Planner
from el_attention.decoder import DecoderSpec, Decoding, NarrowWeights
from el_attention.fairseq_plugin.attention_step import acts
from el_attention.fairseq_plugin.decoding import DecodingState, Prompt
from el_attention.fairseq_plugin.describe import (
    embedding_of,
    layers_of,
    output_of,
    spec_of,
    unsupported,
)
from el_attention.fairseq_plugin.encoder_out import EncoderOut, SharedEncoderOut
from el_attention.ops import compiled
from el_attention.plain import has_hooks
from el_attention.specialize import Specialized
from el_attention.state import Source, States
from el_attention.transfer import to_device, to_host

if TYPE_CHECKING:
    from fairseq.models.transformer import TransformerDecoderBase as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

Features = tuple[Tensor, dict[str, Any]]

# The methods that begin shared states, go on with them and let them follow the beams.
_OF_STATES = (
    "extract_features",
    "reorder_incremental_state",
    "reorder_incremental_state_scripting",
)


class ELDecoder(Specialized, _Base):
    """Generates by the runtime, if it can be described; else its attentions read shared states.

    Attributes:
        el_planner: chooses the plans of a generation.
        el_narrow: the weights that are kept in 16 bits, too.
        el_alignment_layer: the layer whose attention a generation records; None for the last.
        el_alignment_heads: how many of its heads are averaged; None for all.
    """

    el_alignment_layer: int | None = None
    el_alignment_heads: int | None = None
    el_announced: set[str]
    el_planner: Planner
    el_narrow: NarrowWeights

    def begin(
        self,
        incremental_state: dict[str, Any],
        sentences: int,
        beam: int,
        encoder_out: EncoderOut | None = None,
        lengths: Lengths = UNKNOWN_LENGTHS,
    ) -> DecodingState:
        """Starts a generation.

        Args:
            incremental_state: empty; receives the state.
            sentences: number of sentences, G.
            beam: beams of each sentence, B.
            encoder_out: the output of the encoder, if there is one; reordered for the beams, or
                with a column for each of the G * B.
            lengths: what is known of the lengths, for the choice of the plans.
        """
        source, per_beam = _source(encoder_out)
        columns = None if per_beam is None else per_beam.view(-1, beam)[:, 0]
        reason = unsupported(self)
        if reason is None:
            spec = self.el_spec(source is not None)
            decoding = Decoding(
                spec, self.el_planner, sentences, beam, source, columns, lengths=lengths
            )
            state = DecodingState(decoding.states, self.el_announced, decoding)
            state.modules.reordering = [self]
            reason = compiled.unsupported(spec.embedding.tokens)
            for kind, choice in decoding.choices.items():
                if kind == SELF or source is not None:
                    state.announce_plan(kind, choice, reason)
        else:
            device = next(self.parameters()).device
            states = States(sentences, beam, device, source, columns, self._reads_positions())
            state = DecodingState(states, self.el_announced, lengths=lengths)
            state.announce(logging.INFO, f"decoder: fairseq's own modules, because {reason}")
            state.modules.reordering = [
                m for m in self.modules() if hasattr(m, "reorder_incremental_state")
            ]
        state.attach(incremental_state)
        return state

    def el_spec(self, with_source: bool) -> DecoderSpec:
        """Describes itself as it is now, with narrow weights; see `describe.spec_of`."""
        return self.el_narrow.added_to(spec_of(self, with_source))

    def el_make_narrow(self, with_source: bool) -> None:
        """Lets memory that is measured from now on be without that of narrow weights."""
        if unsupported(self) is None:
            self.el_spec(with_source)

    def shares_states(self, encoder_out: EncoderOut | None = None) -> bool:
        """Whether a generation that begins now can share states; the log says why not.

        Args:
            encoder_out: the output of the encoder, if there is one.
        """
        device = next(self.parameters()).device.type
        reason = None
        replaced = [name for name in _OF_STATES if name in vars(self)]
        if replaced:
            reason = f"{replaced[0]} was replaced by one that may not know of shared states"
        elif torch.is_autocast_enabled(device):
            reason = "autocast gives states and weights different dtypes"
        elif isinstance(self.layers, LayerDropModuleList) and self.layers.training:
            reason = "layers are in training, and those that LayerDrop leaves out write no row"
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

    def take_prompt(self, incremental_state: dict[str, Any], tokens: Tensor) -> None:
        """Processes prompts at once, each sentence once, if `begin` has found a runtime.

        Args:
            incremental_state: holds a state that `begin` has just made.
            tokens: int64 [G, P], right-padded; the first is the beginning of the sequence.
        """
        state = DecodingState.find(incremental_state)
        assert state is not None
        if state.decoding is None:
            return
        is_padding = tokens.eq(self.padding_idx)
        is_padding[:, 0] = False
        (lengths,) = to_host((~is_padding).sum(1))
        self._make_room(state.decoding, tokens.size(1))
        features = state.decoding.prefill(tokens, is_padding if is_padding.any() else None)
        state.prompt = Prompt(features, lengths, torch.arange(len(tokens), device=tokens.device))

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
        return self.el_project(features, DecodingState.find(incremental_state)), extra

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
        beams, position = len(prev_output_tokens), prev_output_tokens.size(1) - 1
        if state is None:
            beam = _beam(encoder_out, beams)
            state = self.begin(incremental_state, beams // beam, beam, encoder_out)

        def step(tokens: Tensor, active: Tensor | None) -> Features:
            is_padding = None
            if state.may_pad or not position:
                hidden = tokens[:, -1].eq(self.padding_idx)
                is_padding = hidden if bool(hidden.any()) else None
            if state.decoding is None:
                return self._module_step(
                    state, tokens, encoder_out, incremental_state, is_padding, *args, **kwargs
                )
            return self._step(state, state.decoding, tokens, is_padding, active, *args, **kwargs)

        prompt, tree = state.prompt, state.states.tree
        if prompt is None or not bool((inside := position < prompt.lengths).any()):
            state.prompt = None
            if beams != tree.sentences * tree.beam:
                raise ValueError(
                    f"prev_output_tokens: expected {tree.sentences * tree.beam} rows, one for each "
                    f"beam, got {beams}"
                )
            return step(prev_output_tokens, None)
        features = prompt.at(position)
        if beams != tree.sentences:
            features = features.repeat_interleave(tree.beam, 0)
        if not bool(inside.all()):
            active = (~inside).nonzero().flatten()
            beams_of = torch.arange(beams, device="cpu").view(tree.sentences, tree.beam)
            (rows,) = to_device(features.device, beams_of[active].flatten())
            features[rows] = step(prev_output_tokens[rows], active)[0]
        else:
            self._draw_as_layers_do()
        return features, {"attn": [None], "inner_states": []}

    def _step(
        self,
        state: DecodingState,
        decoding: Decoding,
        tokens: Tensor,
        is_padding: Tensor | None,
        active: Tensor | None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ) -> Features:
        """Computes features of the last of `tokens`, [G' * B, T], by the runtime."""
        self._draw_as_layers_do()
        position = tokens.size(1) - 1
        self._make_room(decoding, position + 1)
        layer = self.el_alignment_layer if alignment_layer is None else alignment_layer
        heads = self.el_alignment_heads if alignment_heads is None else alignment_heads
        result = decoding.step(
            tokens[:, -1],
            position,
            is_padding,
            active,
            (self.num_layers - 1 if layer is None else layer) if state.records_weights else None,
        )
        attention = None
        if result.weights is not None:
            by_head = result.weights.flatten(0, 1).transpose(0, 1).unsqueeze(2)
            attention = by_head.float().to(result.hidden)[:heads].mean(dim=0)
        inner = [x.unsqueeze(0) for x in result.inner]
        return result.hidden.unsqueeze(1), {"attn": [attention], "inner_states": inner}

    def _draw_as_layers_do(self) -> None:
        """Draws the random numbers that each step of stock fairseq draws."""
        if isinstance(self.layers, LayerDropModuleList):
            for _ in self.layers:
                pass

    def _module_step(
        self,
        state: DecodingState,
        tokens: Tensor,
        encoder_out: EncoderOut | None,
        incremental_state: dict[str, Any],
        is_padding: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> Features:
        """Computes features of the last of `tokens`, [G * B, T], by fairseq's modules."""
        position = tokens.size(1) - 1
        state.states.advance(position, is_padding)
        state.modules.advance(position)
        _, state.modules.columns = _source(encoder_out)
        for name in ("alignment_layer", "alignment_heads"):
            # fairseq's generators ask for none, where a model has been trained for some.
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self, f"el_{name}")
        if isinstance(encoder_out, SharedEncoderOut) and encoder_out.has_source:
            state.modules.per_beam = encoder_out
            if self._reads_by_attention_alone():
                encoder_out = encoder_out.shared
        return super().extract_features(tokens, encoder_out, incremental_state, *args, **kwargs)

    def _make_room(self, decoding: Decoding, positions: int) -> None:
        """Lets a sinusoidal table have as many positions as are asked for."""
        limit = decoding.spec.embedding.limit
        if limit is not None and positions > limit:
            embedding = embedding_of(self, positions)
            decoding.spec = replace(decoding.spec, embedding=embedding)

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
        for module in state.modules.reordering:
            if state.modules.attentions.get(module) is None:  # the others follow the tree
                module.reorder_incremental_state(incremental_state, new_order)
        for (module, _), other in state.modules.elsewhere.items():
            module.reorder_incremental_state(other, new_order)

    def el_follows_on_host(self, incremental_state: dict[str, Any]) -> bool:
        """Whether the host alone follows the beams: the tree, and no module with a state."""
        state = DecodingState.find(incremental_state)
        return (
            state is not None
            and state.decoding is not None
            and self.el_is_plain("reorder_incremental_state", "reorder_incremental_state_scripting")
        )

    def _reads_positions(self) -> bool:
        """Whether an attention draws its dropout mask by the positions of rows."""
        attentions = (m for m in self.modules() if isinstance(m, MultiheadAttention))
        return any(acts(attention.dropout_module) for attention in attentions)

    def _declines(self, incremental_state: dict[str, Any], encoder_out: EncoderOut | None) -> bool:
        """Whether a generation is fairseq's own, which is decided at its first step."""
        undecided = not DecodingState.is_decided(incremental_state)
        if undecided and not self.shares_states(encoder_out):
            DecodingState.decline(incremental_state)
        return DecodingState.is_declined(incremental_state)

    def _reads_by_attention_alone(self) -> bool:
        """Whether nothing but encoder-decoder attention reads the encoder output."""
        layers = [layer for layer in layers_of(self) if not isinstance(layer, BaseLayer)]
        forwards = (TransformerDecoderLayerBase.forward, TransformerDecoderLayer.forward)
        return self.el_is_plain("extract_features", "extract_features_scriptable") and all(
            type(layer).forward in forwards
            and "forward" not in vars(layer)
            and not any(has_hooks(part) for part in (layer, layer.encoder_attn) if part is not None)
            for layer in layers
        )

    def el_is_plain(self, *methods: str) -> bool:
        """Whether `methods` are those of fairseq's Transformer decoder."""
        return all(
            name not in vars(self)
            and getattr(self._base, name)
            in (getattr(TransformerDecoderBase, name), getattr(TransformerDecoder, name))
            for name in methods
        )

    def el_project(self, features: Tensor, state: DecodingState | None) -> Tensor:
        """Returns the logits [..., vocab_size] of features [..., C] in a generation."""
        decoding = None if state is None else state.decoding
        output = output_of(self) if decoding is None else decoding.spec.output
        logits: Tensor = self.output_layer(features) if output is None else output(features)
        return logits


def _source(encoder_out: EncoderOut | None) -> tuple[Source | None, Tensor | None]:
    """Returns an encoder output once per sentence, and int64 [G * B], the column of each beam."""
    if isinstance(encoder_out, SharedEncoderOut) and encoder_out.has_source:
        return _source(encoder_out.shared)[0], encoder_out.columns
    if encoder_out is None or not encoder_out["encoder_out"]:
        return None, None
    states = encoder_out["encoder_out"][0]
    padding = encoder_out["encoder_padding_mask"]
    everyone = torch.arange(states.size(1), device=states.device)
    return Source(states, padding[0] if padding else None), everyone


def _beam(encoder_out: EncoderOut | None, rows: int) -> int:
    """Finds how many rows belong to each sentence: 1 unless the source says otherwise.

    Raises:
        ValueError: if there is not a source for each row.
    """
    source, columns = _source(encoder_out)
    if source is None or columns is None:
        return 1
    if len(columns) != rows:
        raise ValueError(
            f"encoder_out: expected a source for each of {rows} beams, got {len(columns)}"
        )
    sentences = source.states.size(1)
    if rows % max(1, sentences):
        return 1
    beam = rows // max(1, sentences)
    order = torch.arange(sentences, device=columns.device).repeat_interleave(beam)
    return beam if torch.equal(columns, order) else 1
