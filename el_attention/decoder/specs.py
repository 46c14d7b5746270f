"""Specs: what a decoder computes, as plain data.

The tensors are the model's own and are never copied: a spec is made anew for each generation, so
that a model that has been changed, moved or loaded again is seen as it is.  A spec that does not
fit together is refused when it is built.

Shapes use C for the width of the decoder, H for heads, D for the width of a head, V for the
vocabulary, E for the width of token embeddings, and K for the width of the encoder output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from el_attention.attention import Projections, Sink
from el_attention.ops import linear, softmax_dtype

Activation = Callable[[Tensor], Tensor]
Positions = Callable[[Tensor], Tensor]


def _expect(field: str, expected: object, got: object) -> None:
    """Refuses a field.

    Raises:
        ValueError: unless `got` is as expected.
    """
    if expected != got:
        raise ValueError(f"{field}: expected {expected}, got {got}")


@dataclass(frozen=True, eq=False)
class Affine:
    """x W^T + b.

    Attributes:
        weight: [O, I]; of any strides, so that the transpose of a weight kept as [I, O] will do;
            of a float32 layer on a CPU also a narrow weight.
        bias: [O] or None.
        narrow: [O, I], the same values in 16 bits, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    narrow: Tensor | None = None

    def __post_init__(self) -> None:
        _expect("weight: dimensions", 2, self.weight.dim())
        if self.narrow is not None:
            _expect("narrow", tuple(self.weight.shape), tuple(self.narrow.shape))
        if self.bias is not None:
            _expect("bias", (len(self.weight),), tuple(self.bias.shape))

    @property
    def inputs(self) -> int:
        """Width of the input, I."""
        return self.weight.size(1)

    @property
    def outputs(self) -> int:
        """Width of the output, O."""
        return self.weight.size(0)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns [..., O] for x [..., I]."""
        return linear(x, self.weight, self.bias, self.narrow)


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer normalization, or one by the root mean square (`rms`).

    Attributes:
        width: the width of what is normalized.
        weight: [width] or None for 1.
        bias: [width] or None for 0; None if `rms`.
        eps: what is added to the variance or the mean square.
        rms: whether the mean is left in.
    """

    width: int
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    rms: bool = False

    def __post_init__(self) -> None:
        for field in ("weight", "bias"):
            tensor = getattr(self, field)
            if tensor is not None:
                _expect(field, (self.width,), tuple(tensor.shape))
        if self.rms:
            _expect("bias of a norm by the root mean square", None, self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalizes x [..., width]."""
        if self.rms:
            return F.rms_norm(x, (self.width,), self.weight, self.eps)
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


@dataclass(frozen=True, eq=False)
class EmbeddingSpec:
    """Token and position embeddings, and what lies before the first layer.

    The result is norm(tokens_norm(projections(scale * tokens[t])) + positions[offset + position]).

    Attributes:
        tokens: [V, E].
        scale: what token embeddings are multiplied by.
        projections: what is applied in order, from E to C.
        tokens_norm: the norm of what is added to the positions, or None.
        positions: [rows, C], learned or sinusoidal; or what computes [..., C] of int64 [...];
            None for none.
        offset: row of position 0, of a table.
        norm: the norm of the sum, or None.
        dtype: of the result, where `tokens` is a narrow weight; None for that of `tokens`.
    """

    tokens: Tensor
    scale: float = 1.0
    projections: tuple[Affine, ...] = ()
    tokens_norm: Norm | None = None
    positions: Tensor | Positions | None = None
    offset: int = 0
    norm: Norm | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        _expect("tokens: dimensions", 2, self.tokens.dim())
        width = self.tokens.size(1)
        for projection in self.projections:
            _expect("projections: inputs", width, projection.inputs)
            width = projection.outputs
        if isinstance(self.positions, Tensor):
            _expect("positions: columns", width, self.positions.size(1))
        for field in ("tokens_norm", "norm"):
            norm = getattr(self, field)
            if norm is not None:
                _expect(f"{field}: width", width, norm.width)

    @property
    def width(self) -> int:
        """Width of the result, C."""
        return self.projections[-1].outputs if self.projections else self.tokens.size(1)

    @property
    def limit(self) -> int | None:
        """Number of positions; None for any number."""
        return len(self.positions) - self.offset if isinstance(self.positions, Tensor) else None

    def __call__(self, tokens: Tensor, position: int | Tensor) -> Tensor:
        """Embeds tokens.

        Args:
            tokens: int64, of any shape.
            position: the position of all tokens, or int64 of a shape that broadcasts to theirs.

        Returns:
            [*tokens.shape, C].

        Raises:
            ValueError: if an int position is beyond the table.
        """
        x = F.embedding(tokens, self.tokens)
        if self.dtype is not None:
            x = x.to(self.dtype)
        if self.scale != 1.0:
            x = self.scale * x
        for projection in self.projections:
            x = projection(x)
        if self.tokens_norm is not None:
            x = self.tokens_norm(x)
        if self.positions is not None:
            x = x + self._at(self.positions, position)
        return x if self.norm is None else self.norm(x)

    def _at(self, table: Tensor | Positions, position: int | Tensor) -> Tensor:
        if not isinstance(table, Tensor):
            return table(torch.as_tensor(position, device=self.tokens.device))
        if isinstance(position, Tensor):
            return F.embedding(position + self.offset, table)
        row = position + self.offset
        if row >= len(table):
            raise ValueError(
                f"position: expected less than {len(table) - self.offset}, the positions of the "
                f"model, got {position}"
            )
        return table[row]


@dataclass(frozen=True, eq=False)
class PositionBias:
    """What an attention adds to its scores: a value for each head, by how far a row lies back.

    Attentions that share one object share what is computed of it in a step.

    Attributes:
        values: [distances, H], for rows 0, 1, ... positions before the query; the last ones hold
            for all rows beyond.  -inf hides a row, but not one at distance 0.
    """

    values: Tensor

    def __post_init__(self) -> None:
        _expect("values: dimensions", 2, self.values.dim())
        if not (len(self.values) and bool(self.values[0].isfinite().all())):
            got = self.values[:1].tolist()
            raise ValueError(f"values: expected finite ones at distance 0, got {got}")

    @property
    def heads(self) -> int:
        """Number of heads, H."""
        return self.values.size(1)

    def __call__(self, distance: Tensor) -> Tensor:
        """Returns the biases of rows.

        Args:
            distance: int64 [n, ...], the position of the query minus that of the row; where it is
                negative, the query does not see the row, and any bias will do.

        Returns:
            [n, H, ...], in float32, or float64 for float64.
        """
        values = self.values.to(softmax_dtype(self.values.dtype)).t().contiguous()
        found = values.index_select(1, distance.clamp(0, len(self.values) - 1).flatten())
        return found.view(-1, *distance.shape).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class AttentionSpec:
    """Multi-head attention.

    Attributes:
        heads: H.
        query: [H * D, C].
        key: [H * D, C], or [H * D, K] over an encoder output.
        value: like `key`.
        output: [C, H * D].
        scale: what the projected query is multiplied by.
        sinks: keys and values that belong to no state.
        position_bias: the bias of self-attention, or None.
    """

    heads: int
    query: Affine
    key: Affine
    value: Affine
    output: Affine
    scale: float
    sinks: tuple[Sink, ...] = ()
    position_bias: PositionBias | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or self.query.outputs % self.heads:
            raise ValueError(
                f"heads: expected a divisor of the width {self.query.outputs} of the query, "
                f"got {self.heads}"
            )
        for field in ("key", "value"):
            _expect(f"{field}: outputs", self.query.outputs, getattr(self, field).outputs)
        _expect("value: inputs", self.key.inputs, self.value.inputs)
        _expect("output: inputs", self.value.outputs, self.output.inputs)
        _expect("output: outputs", self.query.inputs, self.output.outputs)
        if self.position_bias is not None:
            _expect("position_bias: heads", self.heads, self.position_bias.heads)
        for sink in self.sinks:
            for field in ("key", "value"):
                tensor = getattr(sink, field)
                if tensor is not None:
                    _expect(f"sink: {field}", self.head_shape, tuple(tensor.shape))

    @property
    def head_shape(self) -> tuple[int, int]:
        """Heads and width of a head, (H, D)."""
        return self.heads, self.query.outputs // self.heads

    @property
    def projections(self) -> Projections:
        """What the plans keep states with."""
        key, value = self.key, self.value
        return Projections(
            self.heads,
            key.weight,
            key.bias,
            value.weight,
            value.bias,
            key.narrow,
            value.narrow,
        )


@dataclass(frozen=True, eq=False)
class FeedForwardSpec:
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)).

    Attributes:
        up: [inner, C].
        down: [C, inner].
        activation: an element-wise function.
        gate: [inner, C] or None.
    """

    up: Affine
    down: Affine
    activation: Activation
    gate: Affine | None = None

    def __post_init__(self) -> None:
        _expect("down: inputs", self.up.outputs, self.down.inputs)
        _expect("down: outputs", self.up.inputs, self.down.outputs)
        if self.gate is not None:
            _expect("gate", tuple(self.up.weight.shape), tuple(self.gate.weight.shape))

    def __call__(self, x: Tensor) -> Tensor:
        """Returns [..., C] for x [..., C]."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """A decoder layer: self-attention, encoder-decoder attention if any, feed-forward.

    Attributes:
        pre_norm: whether a part's input is normalized, and not the sum of input and output.
        self_attn: over the tokens so far.
        self_attn_norm: its norm.
        feed_forward: the last part.
        feed_forward_norm: its norm.
        cross_attn: over the encoder output, or None.
        cross_attn_norm: its norm; None without `cross_attn`.
    """

    pre_norm: bool
    self_attn: AttentionSpec
    self_attn_norm: Norm
    feed_forward: FeedForwardSpec
    feed_forward_norm: Norm
    cross_attn: AttentionSpec | None = None
    cross_attn_norm: Norm | None = None

    def __post_init__(self) -> None:
        width = self.self_attn.query.inputs
        _expect("self_attn: inputs of key", width, self.self_attn.key.inputs)
        _expect("self_attn_norm: width", width, self.self_attn_norm.width)
        _expect("feed_forward: inputs", width, self.feed_forward.up.inputs)
        _expect("feed_forward_norm: width", width, self.feed_forward_norm.width)
        if self.cross_attn is None:
            _expect("cross_attn_norm without cross_attn", None, self.cross_attn_norm)
            return
        _expect("cross_attn: inputs of query", width, self.cross_attn.query.inputs)
        _expect("cross_attn: position_bias", None, self.cross_attn.position_bias)
        if self.cross_attn_norm is None:
            raise ValueError("cross_attn_norm: expected a norm beside cross_attn, got None")
        _expect("cross_attn_norm: width", width, self.cross_attn_norm.width)


@dataclass(frozen=True, eq=False)
class OutputSpec:
    """Logits: projection(scale * hidden) + bias.

    Attributes:
        projection: [V, C'], often the token embeddings.
        scale: what the hidden states are multiplied by.
        bias: [V], a bias beside that of the projection; or None.
    """

    projection: Affine
    scale: float = 1.0
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.bias is not None:
            _expect("bias", (self.projection.outputs,), tuple(self.bias.shape))

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns [..., V] for hidden [..., C']."""
        logits = self.projection(hidden if self.scale == 1.0 else self.scale * hidden)
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True, eq=False)
class DecoderSpec:
    """A decoder.

    Attributes:
        embedding: the embedding of tokens and positions.
        layers: the layers from the first to the last; a layer may stand in several places.
        norm: the norm after the last layer, or None.
        project_out: [C', C], after the norm, or None.
        output: makes logits of hidden states [..., C']; None where the front end does.
    """

    embedding: EmbeddingSpec
    layers: tuple[LayerSpec, ...]
    norm: Norm | None = None
    project_out: Affine | None = None
    output: OutputSpec | None = None

    def __post_init__(self) -> None:
        width = self.embedding.width
        for index, layer in enumerate(self.layers):
            _expect(f"layers[{index}]: width", width, layer.self_attn.query.inputs)
        if self.norm is not None:
            _expect("norm: width", width, self.norm.width)
        if self.project_out is not None:
            _expect("project_out: inputs", width, self.project_out.inputs)
            width = self.project_out.outputs
        if self.output is not None:
            _expect("output: inputs", width, self.output.projection.inputs)

    @property
    def position_biases(self) -> tuple[PositionBias, ...]:
        """The biases of all layers, each once."""
        found = (layer.self_attn.position_bias for layer in self.layers)
        return tuple(dict.fromkeys(bias for bias in found if bias is not None))

    @property
    def dtype(self) -> torch.dtype:
        """Of the token embeddings, and so of the states."""
        return self.embedding.dtype or self.embedding.tokens.dtype

    @property
    def device(self) -> torch.device:
        """Where the token embeddings are, and so the states."""
        return self.embedding.tokens.device
