"""The two exact plans of multi-head attention: what is kept of each state row, and how it is read.

`ExpandedQuery` keeps the raw state, once for all heads, and moves both projections to the query
side (EL-attention).  `SharedProjection` keeps the key and the value of each head, projected once
and shared by all beams.  Both compute the same function over the same index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from el_attention.ops import Attended, Rows, attend, contract, expand, linear
from el_attention.state import Payload


@dataclass(frozen=True)
class Projections:
    """Key and value projections of one attention; the tensors belong to the model.

    Attributes:
        heads: number of heads, H.
        key_weight: [H * head_dim, width].
        key_bias: [H * head_dim] or None.
        value_weight: [H * head_dim, width].
        value_bias: [H * head_dim] or None.
        key_narrow: as `key_weight`, the same values in 16 bits; or None.
        value_narrow: the same of `value_weight`.
    """

    heads: int
    key_weight: Tensor
    key_bias: Tensor | None
    value_weight: Tensor
    value_bias: Tensor | None
    key_narrow: Tensor | None = None
    value_narrow: Tensor | None = None


@dataclass(frozen=True)
class Sink:
    """A key and value that belong to no state row (`add_bias_kv`, `add_zero_attn`).

    Attributes:
        key: [H, head_dim], or None for zeros.
        value: [H, head_dim], or None for zeros.
    """

    key: Tensor | None
    value: Tensor | None


class Result(NamedTuple):
    """What a plan returns.

    Attributes:
        heads: [G, B, H, head_dim], the output of each head.
        weights: [G, B, H, U + sinks], the attention weights before dropout, at least float32; None
            where nobody asked for them.
    """

    heads: Tensor
    weights: Tensor | None


class Plan(ABC):
    """One way to compute attention over shared states."""

    name: ClassVar[str]

    @abstractmethod
    def payload(self, projections: Projections, states: Tensor) -> Payload:
        """Returns what is kept of `states` [..., width]: [..., kv_heads, W] each."""

    @abstractmethod
    def no_rows(self, projections: Projections) -> Payload:
        """Returns the payload of no states, [0, kv_heads, W] each."""

    @abstractmethod
    def projected(self, projections: Projections, payload: Payload) -> Payload:
        """Returns the keys and values of every head, [..., H, head_dim] each, of a payload."""

    @abstractmethod
    def _queries(self, projections: Projections, query: Tensor) -> Tensor:
        """Returns the query [G, B, H, head_dim] in the space of the kept keys."""

    @abstractmethod
    def _outputs(self, projections: Projections, attended: Attended) -> Tensor:
        """Returns the rows' part of every head's output, [G, B, H, head_dim]."""

    @abstractmethod
    def _sink_score(self, projections: Projections, query: Tensor, sink: Sink) -> Tensor:
        """Returns query . key of a sink, [G, B, H], on the scale of the rows' scores."""

    def read(
        self,
        projections: Projections,
        query: Tensor,
        rows: list[Rows],
        visible: Tensor | None,
        sinks: tuple[Sink, ...] = (),
        *,
        dropout_mask: Tensor | None = None,
        bias: Tensor | None = None,
        need_weights: bool = True,
    ) -> Result:
        """Attends to kept rows.

        Args:
            projections: the projections of the attention.
            query: [G, B, H, head_dim], projected and scaled.
            rows: kept rows, see `el_attention.ops.attend`.
            visible: bool [G, B or 1, U] or None.
            sinks: keys and values outside the rows.
            dropout_mask: [G, B, H, U + sinks], factors on the weights, or None.
            bias: [G, H, U], added to the scores of the rows, or None; see
                `el_attention.ops.attend`.
            need_weights: whether attention weights are to be returned.

        Returns:
            Outputs of the heads, and the attention weights.

        Raises:
            ValueError: if shapes do not fit (RuntimeError from a compiled operator).
        """
        scores = None
        if sinks:
            scores = torch.stack([self._sink_score(projections, query, s) for s in sinks], -1)
        attended = attend(
            self._queries(projections, query),
            rows,
            visible,
            bias=bias,
            sinks=scores,
            dropout_mask=dropout_mask,
            need_weights=need_weights,
        )
        heads = self._outputs(projections, attended)
        for index, sink in enumerate(sinks):
            if sink.value is not None:
                weight = attended.sink_weights[..., index].to(heads.dtype)
                heads = heads + weight.unsqueeze(-1) * sink.value
        return Result(heads, attended.weights)


class ExpandedQuery(Plan):
    """EL-attention: the state itself is key and value of every head."""

    name = "expanded-query"

    def payload(self, projections: Projections, states: Tensor) -> Payload:
        """Returns the states themselves, as one kv head that all heads share; no copy."""
        rows = states.unsqueeze(-2)
        return rows, rows

    def no_rows(self, projections: Projections) -> Payload:
        """Returns one empty tensor as keys and values; see `Plan.no_rows`."""
        rows = projections.key_weight.new_empty(0, 1, projections.key_weight.size(1))
        return rows, rows

    def projected(self, projections: Projections, payload: Payload) -> Payload:
        """Projects the states; see `Plan.projected`."""
        return keys_and_values(projections, payload[0].squeeze(-2))

    def _queries(self, projections: Projections, query: Tensor) -> Tensor:
        return expand(query, projections.key_weight)

    def _outputs(self, projections: Projections, attended: Attended) -> Tensor:
        return contract(
            attended.context, projections.value_weight, projections.value_bias, attended.mass
        )

    def _sink_score(self, projections: Projections, query: Tensor, sink: Sink) -> Tensor:
        # The rows' scores leave out query . key_bias, the same for all rows; a sink has no such
        # term, so here the difference counts.
        score = query.new_zeros(query.shape[:-1])
        if sink.key is not None:
            score = (query * sink.key).sum(-1)
        if projections.key_bias is not None:
            score = score - (query * projections.key_bias.view(projections.heads, -1)).sum(-1)
        return score


class SharedProjection(Plan):
    """Keys and values of every head, projected once per row and shared by all beams."""

    name = "shared-projection"

    def payload(self, projections: Projections, states: Tensor) -> Payload:
        """Returns keys and values, [..., H, head_dim] each."""
        return keys_and_values(projections, states)

    def no_rows(self, projections: Projections) -> Payload:
        """Returns empty keys and values; see `Plan.no_rows`."""
        weights = projections.key_weight, projections.value_weight
        heads = projections.heads
        keys, values = (weight.new_empty(0, heads, len(weight) // heads) for weight in weights)
        return keys, values

    def projected(self, projections: Projections, payload: Payload) -> Payload:
        """Returns the payload, which is projected."""
        return payload

    def _queries(self, projections: Projections, query: Tensor) -> Tensor:
        return query

    def _outputs(self, projections: Projections, attended: Attended) -> Tensor:
        return attended.context

    def _sink_score(self, projections: Projections, query: Tensor, sink: Sink) -> Tensor:
        if sink.key is None:
            return query.new_zeros(query.shape[:-1])
        return (query * sink.key).sum(-1)


def keys_and_values(projections: Projections, states: Tensor) -> Payload:
    """Returns the keys and values, [..., H, head_dim] each, of states [..., width]."""
    p = projections
    key = linear(states, p.key_weight, p.key_bias, p.key_narrow)
    value = linear(states, p.value_weight, p.value_bias, p.value_narrow)
    return key.unflatten(-1, (p.heads, -1)), value.unflatten(-1, (p.heads, -1))


PLANS: dict[str, Plan] = {plan.name: plan for plan in (ExpandedQuery(), SharedProjection())}
