"""fairseq's multi-head attention, reading shared states while a model generates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from el_attention import plain
from el_attention.attention import SELF, SOURCE, Planner
from el_attention.fairseq_plugin.attention_step import AttentionStep, shown
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.ops import compiled
from el_attention.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.modules import MultiheadAttention as _Base
else:
    _Base = object

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class ELAttention(Specialized, _Base):
    """Multi-head attention that reads the shared states of a `DecodingState`.

    Wherever there is no such state (training, scoring, other decoders) and for modules that
    `unsupported` names, it is fairseq's attention unchanged.
    """

    el_name: str
    el_planner: Planner

    def unsupported(self, dtype: torch.dtype) -> str | None:
        """Returns why this module cannot read shared states of `dtype`, or None if it can."""
        from fairseq.modules import MultiheadAttention

        if not issubclass(MultiheadAttention, self._base):
            return f"it is a {self._base.__name__}, which may compute something else"
        replaced = plain.own_method(self)
        if replaced is not None:
            return f"it has a {replaced} of its own"
        if self.use_xformers:
            return "it is computed by xFormers"
        if self.self_attention == self.encoder_decoder_attention:
            return "it is neither self-attention nor encoder-decoder attention"
        if dtype not in DTYPES:
            return f"its states are {dtype}"
        for name in ("k_proj", "v_proj"):
            reason = plain.unsupported(getattr(self, name), (nn.Linear,))
            if reason is not None:
                return f"{name} {reason}"
        return None

    def set_beam_size(self, beam_size: int) -> None:
        """Does nothing: the beam tree knows the beam, and fairseq never forgets this number."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict[str, Any] | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends; see fairseq's `MultiheadAttention.forward` for the arguments.

        In a generation, `query` is [1, G * B, embed_dim] and `key` of encoder-decoder attention
        is the encoder output itself, [S, sentences, kdim].

        Raises:
            ValueError: if scores are to be masked or returned in a generation.
        """
        state = DecodingState.find(incremental_state)
        step = None if state is None else self.step_for(state, query, key, key_padding_mask)
        if state is None or step is None:
            if state is not None and incremental_state is not None:
                incremental_state = state.modules.incremental_state_of(self, incremental_state)
            if state is not None and self.encoder_decoder_attention:
                key, value, key_padding_mask = self._replicated(
                    state, incremental_state, key, value, key_padding_mask
                )
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                incremental_state=incremental_state,
                need_weights=need_weights,
                static_kv=static_kv,
                attn_mask=attn_mask,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
            )
        if attn_mask is not None or before_softmax:
            raise ValueError(f"{self.el_name}: attn_mask and before_softmax are not for decoding")
        query = query.squeeze(0)
        heads, weights = step.attend(
            state, self.q_proj(query), query, need_weights or need_head_weights
        )
        return self.out_proj(heads.unsqueeze(0)), shown(weights, need_head_weights)

    def step_for(
        self,
        state: DecodingState,
        states: Tensor,
        key: Tensor | None,
        is_padding: Tensor | None,
    ) -> AttentionStep | None:
        """Returns this attention in a generation over `states`; None for fairseq's attention.

        Args:
            state: the state of the generation.
            states: queries, of the dtype of what is kept.
            key: as in `forward`; that of encoder-decoder attention must be the encoder output.
            is_padding: bool [sentences or G * B, S], of `key`, or None.
        """
        attentions = state.modules.attentions
        if self not in attentions:
            attentions[self] = self._choose(state, states, key, is_padding)
        return attentions[self]

    def _choose(
        self,
        state: DecodingState,
        states: Tensor,
        key: Tensor | None,
        is_padding: Tensor | None,
    ) -> AttentionStep | None:
        reason = self.unsupported(states.dtype)
        if (
            reason is None
            and self.encoder_decoder_attention
            and not state.modules.is_source(state.states, key, is_padding)
        ):
            reason = "it is given something else than the encoder output"
        if reason:
            line = f"{self.el_name}: fairseq's own attention, because {reason}"
            state.announce(logging.WARNING, line)
            return None
        kind = SELF if self.self_attention else SOURCE
        choice = state.modules.choose(self.el_planner, kind, state.states, states)
        state.announce_plan(kind, choice, compiled.unsupported(states))
        return AttentionStep(self, choice.plan)

    def _replicated(
        self,
        state: DecodingState,
        incremental_state: dict[str, Any] | None,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gives fairseq's attention what it expects at its first step: one source per beam."""
        columns, source = state.modules.columns, state.states.source
        if columns is None or source is None or self._get_input_buffer(incremental_state):
            return key, value, key_padding_mask
        if key is not None and key is source.states:
            key = value = key.index_select(1, columns)
        if key_padding_mask is not None and key_padding_mask is source.is_padding:
            key_padding_mask = key_padding_mask.index_select(0, columns)
        return key, value, key_padding_mask
