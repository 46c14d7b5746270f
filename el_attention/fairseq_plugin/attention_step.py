"""One attention at every step of one generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from el_attention.attention import Plan, Projections, Sink
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.state import Payload, View

if TYPE_CHECKING:
    from fairseq.modules import FairseqDropout

    from el_attention.fairseq_plugin.attention import ELAttention


class AttentionStep:
    """Attends over shared states, between the projection of the query and that of the output.

    What it takes from the module is looked up once: parameters that are replaced are seen by the
    next generation, like the plan.

    Attributes:
        plan: how the states are kept and read.
    """

    def __init__(self, module: ELAttention, plan: Plan) -> None:
        """Looks up what steps need.

        Args:
            module: an attention that can read shared states.
            plan: the plan of this generation.
        """
        self.plan = plan
        self._module = module
        self._is_self_attn: bool = module.self_attention
        self._shape = (module.num_heads, module.head_dim)
        self._scaling: float = module.scaling
        self._projections = Projections(
            module.num_heads,
            module.k_proj.weight,
            module.k_proj.bias,
            module.v_proj.weight,
            module.v_proj.bias,
        )
        self._sinks = sinks_of(module)
        self._dropout = module.dropout_module if acts(module.dropout_module) else None

    def payload(self, states: Tensor) -> Payload:
        """Returns what is kept of `states`; see `Plan.payload`."""
        return self.plan.payload(self._projections, states)

    def attend(
        self,
        state: DecodingState,
        projected: Tensor,
        query: Tensor,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends from the newest token of every beam.

        Args:
            state: the state of the generation.
            projected: [G * B, H * head_dim], the projected query.
            query: [G * B, embed_dim]; self-attention keeps its states.
            need_weights: whether attention weights are of use.

        Returns:
            The input of the output projection, [G * B, H * head_dim], and the weights
            [H, G * B, 1, rows] or None.
        """
        states, modules = state.states, state.modules
        grouped = (projected * self._scaling).view(-1, states.tree.beam, *self._shape)
        if self._is_self_attn:
            rows = modules.append(self._module, self.payload(query), states)
            view = states.view
        else:
            rows = modules.source_rows(self._module, self, states)
            view = states.source_view
        dropout_mask = None
        if self._dropout is not None:
            dropout_mask = self._draw(self._dropout, grouped, view, modules.position)
        heads, weights = self.plan.read(
            self._projections,
            grouped,
            rows,
            view.visible,
            self._sinks,
            dropout_mask=dropout_mask,
            need_weights=need_weights,
        )
        if weights is not None:
            weights = weights.flatten(0, 1).transpose(0, 1).unsqueeze(2)
        return heads.reshape_as(projected), weights

    def _draw(self, dropout: FairseqDropout, query: Tensor, view: View, position: int) -> Tensor:
        """Draws a dropout mask in fairseq's order, so that one seed gives one result."""
        tokens = position + 1 if self._is_self_attn else view.segments[0][0]
        mask = dropout(query.new_ones(*query.shape[:-1], tokens + len(self._sinks)))
        if not self._is_self_attn:
            return mask
        assert view.positions is not None
        by_token, rest = mask.split([tokens, len(self._sinks)], -1)
        by_row = by_token.gather(-1, view.positions[:, None, None].expand(*query.shape[:-1], -1))
        return torch.cat([by_row, rest], -1)


def acts(dropout: FairseqDropout) -> bool:
    """Whether dropout acts now, in training or because the user retains it."""
    return bool(dropout.p > 0 and (dropout.training or dropout.apply_during_inference))


def shown(weights: Tensor | None, by_head: bool) -> Tensor | None:
    """Returns attention weights as fairseq's attention does.

    Args:
        weights: [H, G * B, 1, rows] or None.
        by_head: whether those of every head are wanted, and not their mean.
    """
    return weights if weights is None or by_head else weights.mean(0)


def sinks_of(module: ELAttention) -> tuple[Sink, ...]:
    """Returns the keys and values that belong to no state."""
    sinks = []
    if module.bias_k is not None and module.bias_v is not None:
        shape = (module.num_heads, module.head_dim)
        sinks.append(Sink(module.bias_k.view(shape), module.bias_v.view(shape)))
    if module.add_zero_attn:
        sinks.append(Sink(None, None))
    return tuple(sinks)
