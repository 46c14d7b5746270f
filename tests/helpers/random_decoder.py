"""Random decoders as specs, and what they must compute, one sequence at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from el_attention.attention import Sink
from el_attention.decoder import (
    Affine,
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    Norm,
    OutputSpec,
    PositionBias,
)


@dataclass(frozen=True)
class Shape:
    """What a random decoder is like.

    Attributes:
        heads: H.
        head_width: D; heads * head_width need not be the width.
        layers: number of layers; the last one repeats the first if `repeats`.
        pre_norm: as in `LayerSpec`.
        rms: norms by the root mean square.
        gated: feed-forward layers with a gate.
        transposed: weights lie as [in, out].
        source: width of the encoder output; 0 for a language model.
        outer: width of token embeddings, projected in and out; 0 for the decoder's.
        positions: whether there are embeddings of positions.
        embedding_norm: whether the embeddings are normalized.
        biases: whether affine layers have biases.
        sinks: keys and values that belong to no state.
        repeats: whether a layer stands in two places.
        scaled: whether embeddings, queries and output are scaled.
        biases_by_position: how many different ones the layers have, in turns; 0 for none.
        window: distance from which on rows are not seen, besides; 0 for any.
        width: of the decoder.
    """

    heads: int = 2
    head_width: int = 4
    layers: int = 2
    pre_norm: bool = False
    rms: bool = False
    gated: bool = False
    transposed: bool = False
    source: int = 0
    outer: int = 0
    positions: bool = True
    embedding_norm: bool = False
    biases: bool = True
    sinks: int = 0
    repeats: bool = False
    scaled: bool = True
    biases_by_position: int = 0
    window: int = 0
    width: int = 12


WIDTH, INNER, VOCAB_SIZE, POSITIONS, OFFSET = Shape.width, 10, 23, 40, 2
DISTANCES = 6  # of which a bias knows


class _Maker:
    def __init__(self, shape: Shape, dtype: torch.dtype, seed: int, device: str) -> None:
        self.shape = shape
        self.dtype, self.device = dtype, device
        self.random = torch.Generator().manual_seed(seed)

    def normal(self, *size: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(size, generator=self.random, dtype=torch.float64)
        return (scale * drawn).to(self.device, self.dtype)

    def affine(self, outputs: int, inputs: int) -> Affine:
        scale = 1.5 / math.sqrt(inputs)
        if self.shape.transposed:
            weight = self.normal(inputs, outputs, scale=scale).t()
        else:
            weight = self.normal(outputs, inputs, scale=scale)
        return Affine(weight, self.normal(outputs) if self.shape.biases else None)

    def norm(self) -> Norm:
        width = self.shape.width
        weight = 1 + self.normal(width, scale=0.3)
        if self.shape.rms:
            return Norm(width, weight, None, 1e-6, rms=True)
        return Norm(width, weight, self.normal(width, scale=0.3), 1e-5)

    def position_bias(self) -> PositionBias:
        values = self.normal(DISTANCES, self.shape.heads, scale=2.0)
        if self.shape.window:
            values[self.shape.window :] = -math.inf
        return PositionBias(values)

    def attention(
        self, states: int, sinks: int, position_bias: PositionBias | None = None
    ) -> AttentionSpec:
        heads, width = self.shape.heads, self.shape.head_width
        inner = heads * width
        tensors = [(self.normal(heads, width), self.normal(heads, width)), (None, None)]
        return AttentionSpec(
            heads,
            self.affine(inner, self.shape.width),
            self.affine(inner, states),
            self.affine(inner, states),
            self.affine(self.shape.width, inner),
            scale=width**-0.5 if self.shape.scaled else 1.0,
            sinks=tuple(Sink(*pair) for pair in tensors[:sinks]),
            position_bias=position_bias,
        )

    def layer(self, position_bias: PositionBias | None = None) -> LayerSpec:
        shape = self.shape
        gate = self.affine(INNER, self.shape.width) if shape.gated else None
        return LayerSpec(
            pre_norm=shape.pre_norm,
            self_attn=self.attention(self.shape.width, shape.sinks, position_bias),
            self_attn_norm=self.norm(),
            feed_forward=FeedForwardSpec(
                self.affine(INNER, self.shape.width),
                self.affine(self.shape.width, INNER),
                torch.tanh,
                gate,
            ),
            feed_forward_norm=self.norm(),
            cross_attn=self.attention(shape.source, shape.sinks) if shape.source else None,
            cross_attn_norm=self.norm() if shape.source else None,
        )

    def decoder(self) -> DecoderSpec:
        shape = self.shape
        outer = shape.outer or self.shape.width
        biases: list[PositionBias | None] = [None]
        if shape.biases_by_position:
            biases = [self.position_bias() for _ in range(shape.biases_by_position)]
        layers = [self.layer(biases[i % len(biases)]) for i in range(shape.layers)]
        if shape.repeats:
            layers.append(layers[0])
        return DecoderSpec(
            EmbeddingSpec(
                self.normal(VOCAB_SIZE, outer),
                scale=math.sqrt(self.shape.width) if shape.scaled else 1.0,
                projections=(self.affine(self.shape.width, outer),) if shape.outer else (),
                positions=self.normal(POSITIONS + OFFSET, self.shape.width)
                if shape.positions
                else None,
                offset=OFFSET if shape.positions else 0,
                norm=self.norm() if shape.embedding_norm else None,
            ),
            tuple(layers),
            norm=self.norm() if shape.pre_norm else None,
            project_out=self.affine(outer, self.shape.width) if shape.outer else None,
            output=OutputSpec(
                self.affine(VOCAB_SIZE, outer),
                scale=0.7 if shape.scaled else 1.0,
                bias=self.normal(VOCAB_SIZE) if shape.scaled else None,
            ),
        )


def random_decoder(
    shape: Shape, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
) -> DecoderSpec:
    """Makes a decoder of a shape."""
    return _Maker(shape, dtype, seed, device).decoder()


def logits_of(spec: DecoderSpec, tokens: Tensor, source: Tensor | None) -> Tensor:
    """Computes the logits after every token of one sequence by their definition.

    Args:
        spec: the spec of the decoder.
        tokens: int64 [T], without padding.
        source: [S, K], without padding, or None.

    Returns:
        [T, V].
    """
    embedding = spec.embedding
    x = embedding.scale * embedding.tokens[tokens]
    for projection in embedding.projections:
        x = _affine(projection, x)
    if isinstance(embedding.positions, Tensor):
        x = x + embedding.positions[embedding.offset : embedding.offset + len(tokens)]
    if embedding.norm is not None:
        x = _norm(embedding.norm, x)
    for layer in spec.layers:
        x = _layer(layer, x, source)
    if spec.norm is not None:
        x = _norm(spec.norm, x)
    if spec.project_out is not None:
        x = _affine(spec.project_out, x)
    assert spec.output is not None
    logits = _affine(spec.output.projection, spec.output.scale * x)
    return logits if spec.output.bias is None else logits + spec.output.bias


def _layer(layer: LayerSpec, x: Tensor, source: Tensor | None) -> Tensor:
    parts = [(layer.self_attn_norm, lambda y: _attention(layer.self_attn, y, y, causal=True))]
    if layer.cross_attn is not None:
        cross, norm = layer.cross_attn, layer.cross_attn_norm
        assert norm is not None and source is not None
        parts.append((norm, lambda y: _attention(cross, y, source, causal=False)))
    parts.append((layer.feed_forward_norm, lambda y: _feed_forward(layer.feed_forward, y)))
    for norm, part in parts:
        x = x + part(_norm(norm, x)) if layer.pre_norm else _norm(norm, x + part(x))
    return x


def _attention(spec: AttentionSpec, x: Tensor, states: Tensor, causal: bool) -> Tensor:
    heads = []
    width = spec.query.outputs // spec.heads
    query, key, value = (
        _affine(affine, given)
        for affine, given in ((spec.query, x), (spec.key, states), (spec.value, states))
    )
    for head in range(spec.heads):
        part = slice(head * width, (head + 1) * width)
        keys, values = [key[:, part]], [value[:, part]]
        for sink in spec.sinks:
            zeros = key.new_zeros(width)
            keys.append((zeros if sink.key is None else sink.key[head])[None])
            values.append((zeros if sink.value is None else sink.value[head])[None])
        scores = spec.scale * query[:, part] @ torch.cat(keys).T
        if spec.position_bias is not None:
            last = len(spec.position_bias.values) - 1
            for row in range(len(x)):
                for column in range(row + 1):
                    at = min(row - column, last)
                    scores[row, column] += spec.position_bias.values[at, head]
        if causal:
            later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
            scores[:, : len(x)] = scores[:, : len(x)].masked_fill(later, -math.inf)
        heads.append(scores.softmax(-1) @ torch.cat(values))
    return _affine(spec.output, torch.cat(heads, -1))


def _feed_forward(spec: FeedForwardSpec, x: Tensor) -> Tensor:
    inner = _affine(spec.up, x)
    if spec.gate is None:
        inner = spec.activation(inner)
    else:
        inner = spec.activation(_affine(spec.gate, x)) * inner
    return _affine(spec.down, inner)


def _affine(affine: Affine, x: Tensor) -> Tensor:
    product = x @ affine.weight.T
    return product if affine.bias is None else product + affine.bias


def _norm(norm: Norm, x: Tensor) -> Tensor:
    centered = x if norm.rms else x - x.mean(-1, keepdim=True)
    x = centered / (centered.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    x = x if norm.weight is None else x * norm.weight
    return x if norm.bias is None else x + norm.bias
