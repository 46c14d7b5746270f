"""The runtime against the definition of every decoder that a spec can describe, in float64."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossed import OPERATORS, crossed
from el_attention.attention import PLANS, Planner
from el_attention.cost import Architecture, Stack
from el_attention.decoder import (
    Affine,
    AttentionSpec,
    DecoderSpec,
    Decoding,
    EmbeddingSpec,
    FeedForwardSpec,
    LayerSpec,
    Norm,
    OutputSpec,
    PositionBias,
)
from el_attention.state import Source
from random_decoder import POSITIONS, VOCAB_SIZE, WIDTH, Shape, logits_of, random_decoder

# Every way in which a shape differs from the default, and some of them together.
SHAPES: dict[str, Shape] = {
    "plain": Shape(),
    "one head": Shape(heads=1, head_width=WIDTH),
    "one narrow head": Shape(heads=1, head_width=5, pre_norm=True),
    "pre-norm": Shape(pre_norm=True),
    "root mean square": Shape(rms=True, pre_norm=True, biases=False, scaled=False),
    "gated": Shape(gated=True),
    "transposed": Shape(transposed=True, source=9),
    "source": Shape(source=12),
    "other width of the source": Shape(source=7, heads=3, head_width=3),
    "projections in and out": Shape(outer=8, source=5),
    "no positions": Shape(positions=False),
    "norm of embeddings": Shape(embedding_norm=True),
    "one sink": Shape(sinks=1, source=6),
    "two sinks": Shape(sinks=2),
    "shared layers": Shape(repeats=True, source=11),
    "like T5": Shape(
        rms=True,
        pre_norm=True,
        gated=True,
        biases=False,
        positions=False,
        source=WIDTH,
        biases_by_position=1,
    ),
    "biases by position and sinks": Shape(biases_by_position=2, layers=3, sinks=2, heads=3),
    "window": Shape(biases_by_position=1, window=3, pre_norm=True, source=5),
}


STACK = Stack(2, WIDTH, 10, 2)


def planner_of(plan: str) -> Planner:
    return Planner(plan, Architecture("tiny", STACK, STACK, VOCAB_SIZE))


def sequences(lengths: list[int], random: torch.Generator) -> list[list[int]]:
    return [torch.randint(VOCAB_SIZE, (n,), generator=random).tolist() for n in lengths]


def padded(rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Tokens [G, P] with arbitrary ones at padding, and where that is."""
    longest = max(len(row) for row in rows)
    tokens, is_padding = [], []
    for row in rows:
        missing = longest - len(row)
        filler, mask = [VOCAB_SIZE - 1] * missing, [True] * missing
        tokens.append([*filler, *row] if left else [*row, *filler])
        is_padding.append([*mask, *[False] * len(row)] if left else [*[False] * len(row), *mask])
    return torch.tensor(tokens), torch.tensor(is_padding)


def source_of(shape: Shape, sentences: int, random: torch.Generator) -> Source | None:
    """Sources of different lengths, with NaN in their padding."""
    if not shape.source:
        return None
    lengths = [5, 2, 4, 1][:sentences]
    states = torch.randn(max(lengths), sentences, shape.source, generator=random).double()
    is_padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    states[is_padding.t()] = torch.nan
    return Source(states, is_padding)


def expected_logits(
    spec: DecoderSpec, rows: list[list[int]], source: Source | None, columns: list[int]
) -> Tensor:
    """The last logits of every row, by definition."""
    found = []
    for row, column in zip(rows, columns, strict=True):
        states = None
        if source is not None:
            assert source.is_padding is not None
            states = source.states[~source.is_padding[column], column]
        found.append(logits_of(spec, torch.tensor(row), states)[-1])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("name", "plan", "prompt", "operators"),
    crossed(SHAPES, PLANS, ["none", "left", "right", "whole"], OPERATORS),
    indirect=["operators"],
)
def test_steps_give_the_logits_of_the_definition(name, plan, prompt, operators) -> None:
    shape, beam = SHAPES[name], 3
    spec = random_decoder(shape)
    random = torch.Generator().manual_seed(len(name))
    lengths = [3, 3, 3, 3] if prompt in ("none", "whole") else [4, 1, 2, 5]
    source = source_of(shape, len(lengths), random)
    decoding = Decoding(spec, planner_of(plan), len(lengths), beam, source)
    output = spec.output
    assert output is not None
    prompts = sequences(lengths, random)
    columns = list(range(len(prompts)))
    rows: list[list[int]] = [[] for _ in prompts for _ in range(beam)]
    position = torch.zeros(len(rows), dtype=torch.int64)
    if prompt != "none":
        tokens, is_padding = padded(prompts, left=prompt == "left")
        hidden = decoding.prefill(tokens, is_padding)
        for at in range(tokens.size(1)):
            there = [i for i in columns if not is_padding[i, at]]
            begun = [prompts[i][: int((~is_padding[i, : at + 1]).sum())] for i in there]
            found = output(hidden[there, at])
            expected = expected_logits(spec, begun, source, there)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        rows = [list(prompts[i // beam]) for i in range(len(rows))]
        position = torch.tensor([len(row) for row in rows])
    for step in range(8):
        tokens = torch.randint(VOCAB_SIZE, (len(rows),), generator=random)
        rows = [[*row, int(token)] for row, token in zip(rows, tokens, strict=True)]
        where = int(position[0]) if bool((position == position[0]).all()) else position
        found = output(decoding.step(tokens, where).hidden)
        expected = expected_logits(spec, rows, source, [c for c in columns for _ in range(beam)])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        kept = list(range(len(columns)))
        if step in (3, 5):
            kept.pop(step % len(kept))
        parents = torch.randint(beam, (len(kept), beam), generator=random)
        order = (torch.tensor(kept)[:, None] * beam + parents).flatten()
        decoding.reorder(order)
        rows, columns = [rows[i] for i in order.tolist()], [columns[i] for i in kept]
        position = position[order] + 1


@pytest.mark.parametrize("biases", [0, 1])
@pytest.mark.parametrize("plan", PLANS)
def test_sentences_may_step_alone_and_beams_may_mix(plan, biases, operators) -> None:
    shape = Shape(source=6, pre_norm=True, biases_by_position=biases)
    spec, random = random_decoder(shape), torch.Generator().manual_seed(1)
    source = source_of(shape, 3, random)
    decoding = Decoding(spec, planner_of(plan), 3, 2, source)
    output = spec.output
    assert output is not None
    tokens = torch.randint(VOCAB_SIZE, (6,), generator=random)
    rows = [[int(token)] for token in tokens]
    decoding.step(tokens, 0)
    active = torch.tensor([0, 2])
    tokens = torch.randint(VOCAB_SIZE, (4,), generator=random)
    found = output(decoding.step(tokens, 1, active=active).hidden)
    stepped = [[*rows[r], int(t)] for r, t in zip((0, 1, 4, 5), tokens, strict=True)]
    expected = expected_logits(spec, stepped, source, [0, 0, 2, 2])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    rows = [*stepped[:2], *rows[2:4], *stepped[2:]]
    order = torch.tensor([5, 0, 2, 2])  # beams of different sentences
    decoding.reorder(order)
    rows = [rows[i] for i in order.tolist()]
    tokens = torch.randint(VOCAB_SIZE, (4,), generator=random)
    positions = torch.tensor([len(row) for row in rows])
    rows = [[*row, int(token)] for row, token in zip(rows, tokens, strict=True)]
    found = output(decoding.step(tokens, positions).hidden)
    expected = expected_logits(spec, rows, source, [2, 0, 1, 1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_a_decoder_of_torch(plan, norm_first) -> None:
    torch.manual_seed(0)
    peer = nn.TransformerDecoderLayer(
        WIDTH, 3, 20, dropout=0.0, norm_first=norm_first, dtype=torch.float64
    ).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    table = torch.randn(VOCAB_SIZE, WIDTH, dtype=torch.float64)

    def norm(module: nn.LayerNorm) -> Norm:
        return Norm(WIDTH, module.weight.detach(), module.bias.detach(), module.eps)

    def affine(module: nn.Linear) -> Affine:
        return Affine(module.weight.detach(), module.bias.detach())

    def attention(module: nn.MultiheadAttention) -> AttentionSpec:
        weights = module.in_proj_weight.detach().chunk(3)
        biases = module.in_proj_bias.detach().chunk(3)
        query, key, value = map(Affine, weights, biases)
        scale = (WIDTH // 3) ** -0.5
        return AttentionSpec(3, query, key, value, affine(module.out_proj), scale)

    layer = LayerSpec(
        norm_first,
        attention(peer.self_attn),
        norm(peer.norm1),
        FeedForwardSpec(affine(peer.linear1), affine(peer.linear2), torch.relu),
        norm(peer.norm3),
        attention(peer.multihead_attn),
        norm(peer.norm2),
    )
    spec = DecoderSpec(EmbeddingSpec(table), (layer,))
    memory = torch.randn(5, 2, WIDTH, dtype=torch.float64)
    tokens = torch.randint(VOCAB_SIZE, (2, 7))
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    with torch.no_grad():
        expected = peer(table[tokens.t()], memory, tgt_mask=mask).transpose(0, 1)
        decoding = Decoding(spec, planner_of(plan), 2, 1, Source(memory))
        found = [decoding.prefill(tokens[:, :3])]
        found += [decoding.step(tokens[:, i], i).hidden[:, None] for i in range(3, 7)]
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-12, atol=1e-12)


def test_a_token_that_is_padding_is_seen_by_no_later_one() -> None:
    spec = random_decoder(Shape(positions=False))
    output = spec.output
    assert output is not None
    decoding = Decoding(spec, planner_of("auto"), 2, 1)
    decoding.step(torch.tensor([3, 4]), 0)
    decoding.step(torch.tensor([5, 6]), 1, is_padding=torch.tensor([False, True]))
    found = output(decoding.step(torch.tensor([7, 8]), 2).hidden)
    expected = expected_logits(spec, [[3, 5, 7], [4, 8]], None, [0, 1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_positions_beyond_the_table_are_refused() -> None:
    spec = random_decoder(Shape())
    decoding = Decoding(spec, planner_of("auto"), 2, 1)
    with pytest.raises(ValueError, match=f"expected less than {POSITIONS}, .*got {POSITIONS}"):
        decoding.step(torch.tensor([1, 2]), POSITIONS)
    with pytest.raises(ValueError, match=f"expected less than {POSITIONS}"):
        decoding.prefill(torch.zeros(2, POSITIONS + 1, dtype=torch.int64))


def test_beams_of_a_sentence_at_different_positions_are_refused_beside_a_bias() -> None:
    spec = random_decoder(Shape(biases_by_position=1))
    decoding = Decoding(spec, planner_of("auto"), 2, 2)
    with pytest.raises(ValueError, match=r"one for all beams .*got \[\[0, 0\], \[1, 2\]\]"):
        decoding.step(torch.arange(4), torch.tensor([0, 0, 1, 2]))


def test_layers_that_share_a_bias_compute_it_once_in_a_step(monkeypatch) -> None:
    asked: list[PositionBias] = []
    compute = PositionBias.__call__

    def watched(bias: PositionBias, distance: Tensor) -> Tensor:
        asked.append(bias)
        return compute(bias, distance)

    monkeypatch.setattr(PositionBias, "__call__", watched)
    spec = random_decoder(Shape(biases_by_position=2, layers=5))
    decoding = Decoding(spec, planner_of("auto"), 2, 1)
    decoding.prefill(torch.zeros(2, 3, dtype=torch.int64))
    assert len(asked) == len(set(asked)) == 2
    decoding.step(torch.tensor([1, 2]), 3)
    assert len(asked) == 4 and len(set(asked)) == 2


def test_prompts_without_tokens_and_sources_of_other_batches_are_refused() -> None:
    decoding = Decoding(random_decoder(Shape()), planner_of("auto"), 2, 1)
    with pytest.raises(ValueError, match="got only padding in one"):
        decoding.prefill(torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[False], [True]]))
    spec = random_decoder(Shape(source=4))
    with pytest.raises(ValueError, match="source: expected 2 columns, one for each sentence"):
        Decoding(spec, planner_of("auto"), 2, 1, Source(torch.zeros(3, 5, 4)))
    with pytest.raises(ValueError, match="source: expected an encoder output, got None"):
        Decoding(spec, planner_of("auto"), 2, 1)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def a_layer(**changed: Any) -> dict[str, Any]:
    layer = random_decoder(Shape(source=6)).layers[0]
    return {field.name: getattr(layer, field.name) for field in fields(layer)} | changed


WRONG: dict[str, tuple[type, dict[str, Any], str]] = {
    "bias": (Affine, {"weight": zeros(3, 2), "bias": zeros(2)}, r"bias: expected \(3,\), got"),
    "weight": (Affine, {"weight": zeros(3)}, "weight: dimensions: expected 2, got 1"),
    "norm": (
        Norm,
        {"width": 4, "weight": zeros(3), "bias": None, "eps": 0.0},
        r"weight: expected \(4,\), got \(3,\)",
    ),
    "rms with a bias": (
        Norm,
        {"width": 4, "weight": None, "bias": zeros(4), "eps": 0.0, "rms": True},
        "bias of a norm by the root mean square",
    ),
    "positions": (
        EmbeddingSpec,
        {"tokens": zeros(5, 4), "positions": zeros(9, 3)},
        "positions: columns: expected 4, got 3",
    ),
    "projection": (
        EmbeddingSpec,
        {"tokens": zeros(5, 4), "projections": (Affine(zeros(4, 3)),)},
        "projections: inputs: expected 4, got 3",
    ),
    "heads": (
        AttentionSpec,
        {
            "heads": 3,
            **dict.fromkeys(("query", "key", "value", "output"), Affine(zeros(4, 4))),
            "scale": 1.0,
        },
        "heads: expected a divisor of the width 4 of the query, got 3",
    ),
    "keys": (
        AttentionSpec,
        {
            "heads": 2,
            **dict.fromkeys(("query", "value", "output"), Affine(zeros(4, 4))),
            "key": Affine(zeros(6, 4)),
            "scale": 1.0,
        },
        "key: outputs: expected 4, got 6",
    ),
    "heads of a bias": (
        AttentionSpec,
        {
            "heads": 2,
            **dict.fromkeys(("query", "key", "value", "output"), Affine(zeros(4, 4))),
            "scale": 1.0,
            "position_bias": PositionBias(zeros(7, 3)),
        },
        "position_bias: heads: expected 2, got 3",
    ),
    "bias that hides a token from itself": (
        PositionBias,
        {"values": torch.full((3, 2), -torch.inf)},
        "values: expected finite ones at distance 0",
    ),
    "bias without distances": (PositionBias, {"values": zeros(0, 2)}, "values: expected finite"),
    "bias of one head": (PositionBias, {"values": zeros(3)}, "values: dimensions: expected 2"),
    "gate": (
        FeedForwardSpec,
        {
            "up": Affine(zeros(6, 4)),
            "down": Affine(zeros(4, 6)),
            "activation": torch.relu,
            "gate": Affine(zeros(5, 4)),
        },
        r"gate: expected \(6, 4\), got \(5, 4\)",
    ),
    "missing norm": (LayerSpec, a_layer(cross_attn_norm=None), "cross_attn_norm: expected a norm"),
    "norm too many": (LayerSpec, a_layer(cross_attn=None), "cross_attn_norm without cross_attn"),
    "norm of another width": (
        LayerSpec,
        a_layer(self_attn_norm=Norm(5, None, None, 0.0)),
        f"self_attn_norm: width: expected {WIDTH}, got 5",
    ),
    "bias over the source": (
        LayerSpec,
        a_layer(
            cross_attn=random_decoder(Shape(biases_by_position=1)).layers[0].self_attn,
        ),
        "cross_attn: position_bias: expected None, got PositionBias",
    ),
    "output": (
        OutputSpec,
        {"projection": Affine(zeros(9, 4)), "bias": zeros(4)},
        r"bias: expected \(9,\), got \(4,\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_spec_that_does_not_fit_together_is_refused(name) -> None:
    kind, arguments, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_layers_of_another_width_are_refused() -> None:
    spec = random_decoder(Shape())
    with pytest.raises(ValueError, match=rf"layers\[0\]: width: expected 5, got {WIDTH}"):
        replace(spec, embedding=EmbeddingSpec(zeros(7, 5)))
