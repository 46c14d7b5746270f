"""fairseq's multi-head attention, reading shared states while a model generates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from el_attention.attention import Plan, Planner, Projections, Sink
from el_attention.cost import SELF, SOURCE
from el_attention.ops import Rows, can_run
from el_attention.plugin.decoding import DecodingState
from el_attention.plugin.linear import obstacle
from el_attention.plugin.specialize import Specialized
from el_attention.state import StatePool, View

if TYPE_CHECKING:
    from fairseq.modules import FairseqDropout
    from fairseq.modules import MultiheadAttention as _Base
else:
    _Base = object

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class ELAttention(Specialized, _Base):
    """Multi-head attention that reads the shared states of a `DecodingState`.

    Wherever there is no such state (training, scoring, other decoders) and for modules that
    `reason_against` names, it is fairseq's attention unchanged.
    """

    el_name: str
    el_planner: Planner

    def reason_against(self, dtype: torch.dtype) -> str | None:
        """Returns why this module cannot read shared states of `dtype`, or None if it can."""
        from fairseq.modules import MultiheadAttention

        if not issubclass(MultiheadAttention, self._base):
            return f"it is a {self._base.__name__}, which may compute something else"
        if self.use_xformers:
            return "it is computed by xFormers"
        if self.self_attention == self.encoder_decoder_attention:
            return "it is neither self-attention nor encoder-decoder attention"
        if dtype not in DTYPES:
            return f"its states are {dtype}"
        for name in ("k_proj", "v_proj"):
            reason = obstacle(getattr(self, name))
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
        plan = None if state is None else self.plan_for(state, query)
        if state is None or plan is None:
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
        projections = self.projections()
        projected = self.q_proj(query.squeeze(0)) * self.scaling
        grouped = state.grouped(projected.view(-1, self.num_heads, self.head_dim))
        rows, view = self._rows(state, plan, projections, query, key)
        sinks = self._sinks()
        result = plan.read(
            projections,
            grouped,
            rows,
            view.visible,
            sinks,
            self._keep(grouped, view, state.age, len(sinks)) if acts(self.dropout_module) else None,
            state.records_weights and (need_weights or need_head_weights),
        )
        output = self.out_proj(result.heads.reshape(1, query.size(1), -1))
        if result.weights is None:
            return output, None
        # fairseq's layout: [heads, batch, 1, rows], or the mean over heads.
        weights = result.weights.flatten(0, 1).transpose(0, 1).unsqueeze(2)
        return output, weights if need_head_weights else weights.mean(0)

    def plan_for(self, state: DecodingState, states: Tensor) -> Plan | None:
        """Returns the plan for a generation over `states`, or None for fairseq's attention."""
        if self not in state.plans:
            reason = self.reason_against(states.dtype)
            if reason:
                state.plans[self] = None
                line = f"{self.el_name}: fairseq's own attention, because {reason}"
                state.announce(logging.WARNING, line)
            else:
                kind = SELF if self.self_attention else SOURCE
                choice = state.choose(self.el_planner, kind, states)
                state.plans[self] = choice.plan
                state.announce(logging.INFO, f"{kind}: {choice.plan.name}", f" ({choice.reason})")
                obstacle = can_run(states)
                operators = f"pure PyTorch, because {obstacle}" if obstacle else "compiled"
                state.announce(logging.INFO, f"operators on {states.device.type}: {operators}")
        return state.plans[self]

    def projections(self) -> Projections:
        """Returns the projections of keys and values, as they are now."""
        return Projections(
            self.num_heads,
            self.k_proj.weight,
            self.k_proj.bias,
            self.v_proj.weight,
            self.v_proj.bias,
        )

    def _rows(
        self,
        state: DecodingState,
        plan: Plan,
        projections: Projections,
        query: Tensor,
        key: Tensor | None,
    ) -> tuple[list[Rows], View]:
        if self.self_attention:
            return state.append(self, plan.payload(projections, query.squeeze(0))), state.view
        if self not in state.pools:
            if key is None:
                raise ValueError(f"{self.el_name}: expected an encoder output, got none")
            state.pools[self] = StatePool([plan.payload(projections, key)])
        return state.pools[self].read(state.source_view), state.source_view

    def _sinks(self) -> tuple[Sink, ...]:
        sinks = []
        if self.bias_k is not None and self.bias_v is not None:
            shape = (self.num_heads, self.head_dim)
            sinks.append(Sink(self.bias_k.view(shape), self.bias_v.view(shape)))
        if self.add_zero_attn:
            sinks.append(Sink(None, None))
        return tuple(sinks)

    def _keep(self, query: Tensor, view: View, age: int, sinks: int) -> Tensor:
        """Draws dropout factors in fairseq's order, so that one seed gives one result."""
        ordered = view.pieces[0][0] if view.ages is None else age + 1
        keep = self.dropout_module(query.new_ones(*query.shape[:-1], ordered + sinks))
        if view.ages is None:
            return keep
        rows, rest = keep.split([ordered, sinks], -1)
        by_row = rows.gather(-1, view.ages[:, None, None].expand(*query.shape[:-1], -1))
        return torch.cat([by_row, rest], -1)

    def _replicated(
        self,
        state: DecodingState,
        incremental_state: dict[str, Any] | None,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gives fairseq's attention what it expects at its first step: one source per beam."""
        if key is None or state.source is None or self._get_input_buffer(incremental_state):
            return key, value, key_padding_mask
        columns = state.source.columns
        key = key.index_select(1, columns)
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.index_select(0, columns)
        return key, key, key_padding_mask


def acts(dropout: FairseqDropout) -> bool:
    """Whether dropout acts now, in training or because the user retains it."""
    return bool(dropout.p > 0 and (dropout.training or dropout.apply_during_inference))
