"""One decoder layer in one generation: its step and its pass over prompts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from el_attention.attention import SELF, SOURCE, Plan, Projections
from el_attention.decoder.compiled_layer import compiled_layer, unsupported
from el_attention.decoder.prefill import causal_attention
from el_attention.decoder.specs import AttentionSpec, LayerSpec, Norm, PositionBias
from el_attention.state import Payload, RowCache, States

if TYPE_CHECKING:
    from el_attention._C import DecoderLayer, StepRows

Biases = Mapping[PositionBias | None, Tensor]


class Layer:
    """A layer of a `DecoderSpec`, with the plans and the states of one generation."""

    def __init__(
        self, spec: LayerSpec, index: int, states: States, plans: Mapping[str, Plan]
    ) -> None:
        """Looks up what steps need.

        Args:
            spec: the spec of the layer, which may stand in several places.
            index: its place.
            states: the states of the generation.
            plans: the plan of each kind of attention, `SELF` and `SOURCE`.
        """
        self._spec = spec
        self._states = states
        self._self_attn = _Attention.of(spec.self_attn, plans[SELF], index)
        self._cross_attn: _Attention | None = None
        if spec.cross_attn is not None:
            # By the attention: layers that share one project the source once.
            self._cross_attn = _Attention.of(spec.cross_attn, plans[SOURCE], spec.cross_attn)
        self._compiled: DecoderLayer | None = None
        if unsupported(spec) is None:
            self._compiled = compiled_layer(spec, plans)
            self._no_rows = plans[SELF].no_rows(spec.self_attn.projections)

    @property
    def is_compiled(self) -> bool:
        """Whether steps are one call into C++ where that is possible."""
        return self._compiled is not None

    def step(
        self, x: Tensor, need_weights: bool, biases: Biases, step: StepRows | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Applies the layer to the newest token of every beam.

        Args:
            x: [G * B, C].
            need_weights: whether the weights of encoder-decoder attention are of use.
            biases: [G, H, U], of the rows that are seen, by what they are computed of.
            step: what the layers share, for one call into C++ where that is possible; or None.

        Returns:
            [G * B, C], and the weights [G, B, H, S + sinks] or None.
        """
        if step is not None and self._compiled is not None and not need_weights:
            return self._call(self._compiled, x, biases, step), None
        spec, states, weights = self._spec, self._states, None
        plan, attention, projections, key = self._self_attn
        states_in = self._before(x, spec.self_attn_norm)
        query = self._grouped(attention.query(states_in), attention)
        rows = states.append(key, plan.payload(projections, states_in))
        heads, _ = plan.read(
            projections,
            query,
            rows,
            states.view.visible,
            attention.sinks,
            bias=biases.get(attention.position_bias),
            need_weights=False,
        )
        x = self._after(x + attention.output(_joined(heads, x)), spec.self_attn_norm)
        if self._cross_attn is not None:
            attention = self._cross_attn.spec
            assert spec.cross_attn_norm is not None
            query = attention.query(self._before(x, spec.cross_attn_norm))
            heads, weights = self._read_source(self._grouped(query, attention), None, need_weights)
            x = self._after(x + attention.output(_joined(heads, x)), spec.cross_attn_norm)
        return self._feed_forward(x), weights

    def prefill(
        self,
        x: Tensor,
        is_padding: Tensor | None,
        sentences: Tensor,
        total: int,
        biases: Biases,
    ) -> Tensor:
        """Applies the layer to prompts, and keeps their states.

        Args:
            x: [P, n, C].
            is_padding: bool [n, P], or None.
            sentences: int64 [n], which sentences these are.
            total: number of all sentences, G.
            biases: [n or 1, H, P, P], of the tokens, by what they are computed of.

        Returns:
            [P, n, C].
        """
        spec, states = self._spec, self._states
        plan, attention, projections, key = self._self_attn
        states_in = self._before(x, spec.self_attn_norm)
        payload = plan.payload(projections, states_in)
        states.self_caches.setdefault(key, RowCache()).fill(payload, sentences, total)
        shape = (*x.shape[:2], *attention.head_shape)
        keys, values = plan.projected(projections, payload)
        query = (attention.query(states_in) * attention.scale).view(shape)
        bias = biases.get(attention.position_bias)
        heads = causal_attention(query, keys, values, is_padding, attention.sinks, bias)
        x = self._after(x + attention.output(heads.flatten(2)), spec.self_attn_norm)
        if self._cross_attn is not None:
            attention = self._cross_attn.spec
            assert spec.cross_attn_norm is not None
            query = attention.query(self._before(x, spec.cross_attn_norm)) * attention.scale
            query = query.view(*x.shape[:2], *attention.head_shape).transpose(0, 1)
            heads, _ = self._read_source(query.contiguous(), sentences, False)
            x = x + attention.output(heads.flatten(2).transpose(0, 1))
            x = self._after(x, spec.cross_attn_norm)
        return self._feed_forward(x)

    def keys_and_values(self, sentences: Tensor, rows: Tensor) -> tuple[Payload, Payload | None]:
        """Copies what beams see, projected.

        Args:
            sentences: int64 [N], the sentence of each beam.
            rows: int64 [N, T], the rows of self-attention to copy for each beam.

        Returns:
            Keys and values of self-attention, [N, H, T, D] each, and of encoder-decoder attention,
            [N, H, S, D] each, or None without one.
        """
        plan, _, projections, key = self._self_attn
        states = self._states
        cache = states.self_caches[key].gather(states.tree.segments, sentences, rows)
        own = _by_head(plan.projected(projections, cache.segments[0]))
        if self._cross_attn is None:
            return own, None
        plan, _, projections, key = self._cross_attn
        source = plan.projected(projections, states.cross_caches[key].segments[0])
        columns = states.columns[sentences]
        return own, _by_head((source[0][:, columns], source[1][:, columns]))

    def _read_source(
        self, query: Tensor, sentences: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attends to the source from queries [n, B, H, D] of some sentences, or of all."""
        assert self._cross_attn is not None
        plan, attention, projections, _ = self._cross_attn
        states, cache = self._states, self._source_cache(self._cross_attn)
        view = states.source_view
        if sentences is not None:
            view = states.source_seen_by(states.columns[sentences])
        return plan.read(
            projections,
            query,
            cache.read(view),
            view.visible,
            attention.sinks,
            need_weights=need_weights,
        )

    def _source_cache(self, cross_attn: _Attention) -> RowCache:
        """Returns what is kept of the source, which is projected at the first use."""
        plan, _, projections, key = cross_attn
        states = self._states
        cache = states.cross_caches.get(key)
        if cache is None:
            assert states.source is not None
            cache = RowCache([plan.payload(projections, states.source.states)])
            states.cross_caches[key] = cache
        return cache

    def _call(self, layer: DecoderLayer, x: Tensor, biases: Biases, step: StepRows) -> Tensor:
        """Takes a step in C++."""
        attention, key = self._self_attn.spec, self._self_attn.key
        rows = self._states.reserve(key, self._no_rows)
        source: list[Payload] = []
        if self._cross_attn is not None:
            source = self._source_cache(self._cross_attn).segments
        return layer.step(x, step, rows, biases.get(attention.position_bias), source)

    def _grouped(self, query: Tensor, attention: AttentionSpec) -> Tensor:
        beam = self._states.tree.beam
        return (query * attention.scale).view(-1, beam, *attention.head_shape)

    def _feed_forward(self, x: Tensor) -> Tensor:
        norm = self._spec.feed_forward_norm
        return self._after(x + self._spec.feed_forward(self._before(x, norm)), norm)

    def _before(self, x: Tensor, norm: Norm) -> Tensor:
        return norm(x) if self._spec.pre_norm else x

    def _after(self, x: Tensor, norm: Norm) -> Tensor:
        return x if self._spec.pre_norm else norm(x)


class _Attention(NamedTuple):
    """An attention of a layer, its plan, and where its rows are kept."""

    plan: Plan
    spec: AttentionSpec
    projections: Projections
    key: Hashable

    @classmethod
    def of(cls, spec: AttentionSpec, plan: Plan, key: Hashable) -> _Attention:
        return cls(plan, spec, spec.projections, key)


def _by_head(payload: Payload) -> Payload:
    """Keys and values [T, N, H, D] each, as [N, H, T, D]."""
    keys, values = payload
    return keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3)


def _joined(heads: Tensor, x: Tensor) -> Tensor:
    """Heads [G, B, H, D] as [G * B, H * D], beside x [G * B, C]."""
    return heads.reshape(len(x), -1)
