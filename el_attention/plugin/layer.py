"""fairseq's decoder layer, without the way through its modules while a model generates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.nn.functional as F
from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from el_attention.ops import linear
from el_attention.plugin import plain
from el_attention.plugin.attention import ELAttention
from el_attention.plugin.attention_step import AttentionStep, acts, shown
from el_attention.plugin.decoding import DecodingState
from el_attention.plugin.specialize import Specialized, specialized_class

if TYPE_CHECKING:
    from fairseq.modules.transformer_layer import TransformerDecoderLayerBase as _Base
else:
    _Base = object

ATTENTION = (MultiheadAttention, specialized_class(ELAttention, MultiheadAttention))
LINEAR = (nn.Linear,)
NORM = (nn.LayerNorm,)
DROPOUT = (FairseqDropout,)

# What the modules in a layer are expected to be, by the last part of their names.
PARTS: dict[str, tuple[type[nn.Module], ...]] = {
    **dict.fromkeys(("self_attn", "encoder_attn"), ATTENTION),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), LINEAR),
    **dict.fromkeys(("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"), NORM),
    **dict.fromkeys(("dropout_module", "activation_dropout_module"), DROPOUT),
}

Affine = tuple[Tensor, Tensor | None]  # weight and bias
Norm = tuple[tuple[int, ...], Tensor | None, Tensor | None, float]  # of `F.layer_norm`


class ELDecoderLayer(Specialized, _Base):
    """A decoder layer that takes the steps of a generation by a `LayerStep` where it can.

    That is decided at its first step, for the whole generation.
    """

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
        incremental_state: dict[str, Any] | None = None,
        prev_self_attn_state: list[Tensor] | None = None,
        prev_attn_state: list[Tensor] | None = None,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Any]:
        """Applies the layer; see fairseq's `TransformerDecoderLayerBase.forward`."""
        state = DecodingState.find(incremental_state)
        given = (prev_self_attn_state, prev_attn_state, self_attn_mask)
        if state is not None and all(argument is None for argument in given):
            step = self._step_for(state, x)
            if step is not None:
                reads = state.records_weights or self._forward_hooks
                need = bool(reads and (need_attn or need_head_weights or self.need_attn))
                return *step(state, x, encoder_out, need, need_head_weights), None
        return super().forward(
            x,
            encoder_out,
            encoder_padding_mask,
            incremental_state,
            prev_self_attn_state,
            prev_attn_state,
            self_attn_mask,
            self_attn_padding_mask,
            need_attn,
            need_head_weights,
        )

    def _step_for(self, state: DecodingState, states: Tensor) -> LayerStep | None:
        if self not in state.layers:
            state.layers[self] = self._look_up(state, states)
        return state.layers[self]

    def _look_up(self, state: DecodingState, states: Tensor) -> LayerStep | None:
        reason = obstacle(self)
        if reason is None:
            over_itself = self.self_attn.step_for(state, states)
            over_source = self.encoder_attn and self.encoder_attn.step_for(state, states)
            if over_itself and (over_source or self.encoder_attn is None):
                return LayerStep(self, over_itself, over_source)
            reason = "an attention is fairseq's"
        state.announce(logging.INFO, f"layers: fairseq's own steps, because {reason}")
        return None


def obstacle(layer: ELDecoderLayer) -> str | None:
    """Returns why `layer` may compute something else than a `LayerStep`, or None."""
    adds = getattr(layer.residual_connection, "__func__", None)
    if adds is not TransformerDecoderLayerBase.residual_connection:
        return "one adds residuals in its own way"
    if layer.training or layer.onnx_trace:
        return "one is in training or traced"
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return "there are hooks on all modules"
    for name, _ in layer.named_parameters(recurse=False):
        return f"one has a {name}"
    for name, module in layer.named_modules():
        if module is layer:
            continue
        kinds = PARTS.get(name.rpartition(".")[2])
        reason = "is not fairseq's" if kinds is None else plain.obstacle(module, kinds)
        if reason is None and isinstance(module, FairseqDropout) and acts(module):
            reason = "acts"
        if reason is not None:
            return f"{name} {reason}"
    return None


class LayerStep:
    """A decoder layer at every step of one generation.

    Parameters are looked up once, like those of an `AttentionStep`.
    """

    def __init__(
        self, layer: ELDecoderLayer, over_itself: AttentionStep, over_source: AttentionStep | None
    ) -> None:
        """Looks up what steps need.

        Args:
            layer: that has no `obstacle`.
            over_itself: its self-attention.
            over_source: its encoder-decoder attention, if it has one.
        """
        self._normalizes_before: bool = layer.normalize_before
        self._over_itself = _Attention.of(layer.self_attn, over_itself, layer.self_attn_layer_norm)
        self._over_source = None
        if over_source is not None:
            self._over_source = _Attention.of(
                layer.encoder_attn, over_source, layer.encoder_attn_layer_norm
            )
        self._fc1, self._fc2 = _affine(layer.fc1), _affine(layer.fc2)
        self._activation: Callable[[Tensor], Tensor] = layer.activation_fn
        self._norm = _norm(layer.final_layer_norm)

    def __call__(
        self,
        state: DecodingState,
        x: Tensor,
        source: Tensor | None,
        need_weights: bool,
        by_head: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Applies the layer to the newest token of every beam.

        Args:
            state: of the generation.
            x: [1, G * B, C].
            source: [S, sentences, width], the encoder output, if any.
            need_weights: whether the weights of encoder-decoder attention are of use.
            by_head: whether those of every head are, and not their mean.

        Returns:
            [1, G * B, C], and the weights or None; see fairseq's layer.
        """
        x, weights = x.squeeze(0), None
        x, _ = self._attend(self._over_itself, state, x, None, False)
        if self._over_source is not None and source is not None:
            x, weights = self._attend(self._over_source, state, x, source, need_weights)
        hidden = self._activation(linear(self._before(x, self._norm), *self._fc1))
        x = self._after(x + linear(hidden, *self._fc2), self._norm)
        return x.unsqueeze(0), shown(weights, by_head)

    def _attend(
        self,
        attention: _Attention,
        state: DecodingState,
        x: Tensor,
        source: Tensor | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        step, queries, outputs, norm = attention
        query = self._before(x, norm)
        projected = linear(query, *queries)
        heads, weights = step.attend(state, projected, query, source, need_weights)
        return self._after(x + linear(heads, *outputs), norm), weights

    def _before(self, x: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(x, *norm) if self._normalizes_before else x

    def _after(self, x: Tensor, norm: Norm) -> Tensor:
        return x if self._normalizes_before else F.layer_norm(x, *norm)


class _Attention(NamedTuple):
    """An attention and what is around it."""

    step: AttentionStep
    queries: Affine
    outputs: Affine
    norm: Norm

    @classmethod
    def of(cls, module: ELAttention, step: AttentionStep, norm: nn.LayerNorm) -> _Attention:
        return cls(step, _affine(module.q_proj), _affine(module.out_proj), _norm(norm))


def _affine(layer: nn.Linear) -> Affine:
    return layer.weight, layer.bias


def _norm(layer: nn.LayerNorm) -> Norm:
    return tuple(layer.normalized_shape), layer.weight, layer.bias, layer.eps
