"""Shapes of the models: all that the cost model knows of an architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """A stack of Transformer layers.

    Attributes:
        layers: number of layers, L.
        width: the width of the residual stream, d.
        ffn: inner width of the feed-forward block, f.
        heads: number of attention heads, H.
        inner: how many tensors of the inner width are alive while the activation is computed: its
            argument and its result; more if several operators compute it.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    inner: int = 2

    @property
    def layer_weights(self) -> int:
        """Weights of a layer without encoder-decoder attention: q, k, v, out, two of the ffn."""
        return 4 * self.width**2 + 2 * self.width * self.ffn


@dataclass(frozen=True)
class Architecture:
    """A Transformer as far as its cost goes; biases and layer norms are left out (below 0.2%).

    Attributes:
        name: what users call it.
        decoder: the decoder's layers.
        encoder: the encoder's layers; None for a language model.
        vocabulary: number of output symbols, V.
        embedding_tables: distinct tables of V rows of the decoder's width that are stored: 1 if
            source, target and output share theirs, 3 if each has its own.
        positions: rows of learned position tables.
    """

    name: str
    decoder: Stack
    encoder: Stack | None
    vocabulary: int
    embedding_tables: int = 1
    positions: int = 0

    @property
    def source_width(self) -> int:
        """Width of the states that the source or prompt leaves behind."""
        return (self.encoder or self.decoder).width

    @property
    def cross_weights(self) -> tuple[int, int]:
        """Weights per layer of encoder-decoder attention: on queries (q, out), on states (k, v)."""
        if self.encoder is None:
            return 0, 0
        return 2 * self.decoder.width**2, 2 * self.encoder.width * self.decoder.width

    @property
    def decoder_matrices(self) -> int:
        """Weights of the decoder's linear layers, the vocabulary's included."""
        layer = self.decoder.layer_weights + sum(self.cross_weights)
        return self.decoder.layers * layer + self.vocabulary * self.decoder.width

    @property
    def weights(self) -> int:
        """Number of stored weights."""
        total = self.decoder.layers * (self.decoder.layer_weights + sum(self.cross_weights))
        if self.encoder is not None:
            total += self.encoder.layers * self.encoder.layer_weights
        tables = self.embedding_tables * self.vocabulary + self.positions
        return total + tables * self.decoder.width


_BASE, _LARGE = Stack(6, 768, 3072, 12), Stack(12, 1024, 4096, 16)
BART_BASE = Architecture("bart.base", _BASE, _BASE, 50_265, positions=2 * 1026)
BART_LARGE = Architecture("bart.large", _LARGE, _LARGE, 50_264, positions=2 * 1026)
# The paper's 270 M: transformer_vaswani_wmt_en_de_big with BERT's 30,522 word pieces, three tables.
_BIG = Stack(6, 1024, 4096, 16)
TRANSFORMER_BIG = Architecture("transformer", _BIG, _BIG, 30_522, embedding_tables=3)
# GPT-2's activation: 0.5 * x * (1 + tanh(a * (x + b * x^3))), operator by operator.
_SMALL, _MEDIUM = Stack(12, 768, 3072, 12, inner=4), Stack(24, 1024, 4096, 16, inner=4)
GPT2_SMALL = Architecture("gpt-2.small", _SMALL, None, 50_257, positions=1024)
GPT2_MEDIUM = Architecture("gpt-2.medium", _MEDIUM, None, 50_257, positions=1024)
ARCHITECTURES = {
    arch.name: arch for arch in (BART_BASE, BART_LARGE, TRANSFORMER_BIG, GPT2_SMALL, GPT2_MEDIUM)
}
