"""The example to be read: its attention is multi-head attention, its tree gives a beam search."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import minimal

FILE = Path(minimal.__file__)


def random_attention(width: int, heads: int) -> nn.MultiheadAttention:
    """An attention whose biases, zero as torch makes them, are random too."""
    attention = nn.MultiheadAttention(width, heads, dtype=torch.float64)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attention


def random_decoder(vocab_size: int, layers: int, steps: int) -> minimal.Decoder:
    decoder = minimal.Decoder(vocab_size, 16, heads=4, layers=layers, steps=steps).double().eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.4)
    return decoder


class Copies:
    """The peer: torch's own attention over the inputs of each layer, copied for every beam."""

    def __init__(self, model: minimal.Decoder, source: Tensor, beams: int) -> None:
        self.model = model
        self.source = source.unsqueeze(1).repeat(1, beams, 1)
        self.caches = [source.new_zeros(0, beams, source.size(-1)) for _ in model.layers]

    def step(self, tokens: Tensor, position: int) -> Tensor:
        x = self.model.tokens(tokens) + self.model.positions.weight[position]
        for index, layer in enumerate(self.model.layers):
            assert isinstance(layer, minimal.Layer)
            hidden = layer.norms[0](x)
            cache = self.caches[index] = torch.cat([self.caches[index], hidden.unsqueeze(0)])
            x = x + layer.self_attn(hidden.unsqueeze(0), cache, cache, need_weights=False)[0][0]
            query = layer.norms[1](x).unsqueeze(0)
            x = x + layer.cross_attn(query, self.source, self.source, need_weights=False)[0][0]
            x = x + layer.fc2(layer.fc1(layer.norms[2](x)).relu())
        logits: Tensor = self.model.output(self.model.norm(x))
        return logits

    def reorder(self, parents: list[int]) -> None:
        self.caches = [cache[:, parents].clone() for cache in self.caches]


@torch.no_grad()
def naive_beam_search(
    model: minimal.Decoder, source: Tensor, beams: int, steps: int, eos: int
) -> list[tuple[float, list[int]]]:
    """Lists and sorting in place of tensors, copied states in place of the tree."""
    peer, finished = Copies(model, source, beams), []
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    for position in range(steps):
        newest = torch.tensor([(tokens or [eos])[-1] for _, tokens in alive])
        if position == 0:
            newest = newest.repeat(beams)  # the first state, for every beam
        lprobs = peer.step(newest, position).log_softmax(-1).tolist()
        candidates = sorted(
            (
                (total + lprob, beam, [*tokens, token])
                for beam, (total, tokens) in enumerate(alive)
                for token, lprob in enumerate(lprobs[beam])
            ),
            reverse=True,
        )[: 2 * beams]
        last = position + 1 == steps
        finished += [
            (total / len(tokens), tokens)
            for total, _, tokens in candidates[:beams]
            if last or tokens[-1] == eos
        ]
        if last or len(finished) >= beams:
            break
        kept = [candidate for candidate in candidates if candidate[2][-1] != eos][:beams]
        alive = [(total, tokens) for total, _, tokens in kept]
        peer.reorder([beam for _, beam, _ in kept])
    return sorted(finished, reverse=True)[:beams]


@pytest.mark.parametrize("beams, heads, rows", [(1, 1, 1), (3, 2, 7), (5, 8, 40)])
def test_attention_is_that_of_torch(beams: int, heads: int, rows: int) -> None:
    torch.manual_seed(beams)
    attention = random_attention(16, heads)
    x = torch.randn(beams, 16, dtype=torch.float64)
    states = torch.randn(rows, 16, dtype=torch.float64)
    visible = torch.rand(beams, rows) < 0.5
    visible[:, 0] = True
    expected, _ = attention(x, states, states, attn_mask=~visible)
    found = minimal.el_attention(attention, x, states, visible)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_hypotheses_are_those_of_copied_states(beams: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = random_decoder(vocab_size=11, layers=2, steps=9)
    source = torch.randn(6, 16, dtype=torch.float64)
    found, _ = minimal.beam_search(model, source, beams, steps=9, eos=2)
    expected = naive_beam_search(model, source, beams, steps=9, eos=2)
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-12)


def test_rows_are_written_once_and_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = random_decoder(vocab_size=11, layers=2, steps=9)
    orders, reused, places = [], set(), set()
    append, reorder = minimal.Tree.append, minimal.Tree.reorder

    def watched_append(tree: minimal.Tree) -> Tensor:
        slots = append(tree)
        assert slots.unique().numel() == len(slots) == 4
        reused.update(set(slots.tolist()) & tree.__dict__.setdefault("written", set()))
        tree.__dict__["written"].update(slots.tolist())
        tree.__dict__["new"] = set(slots.tolist())
        tree.__dict__["before"] = tree.rows.clone()
        places.add(tree.rows.data_ptr())
        return slots

    def watched_reorder(tree: minimal.Tree, parents: Tensor) -> None:
        orders.append(parents.tolist())
        old = [row for row in range(tree.rows.size(1)) if row not in tree.__dict__["new"]]
        torch.testing.assert_close(
            tree.rows[:, old], tree.__dict__["before"][:, old], rtol=0, atol=0
        )
        kept = tree.rows.clone()
        reorder(tree, parents)
        torch.testing.assert_close(tree.rows, kept, rtol=0, atol=0)

    monkeypatch.setattr(minimal.Tree, "append", watched_append)
    monkeypatch.setattr(minimal.Tree, "reorder", watched_reorder)
    source = torch.randn(6, 16, dtype=torch.float64)
    minimal.beam_search(model, source, beams=4, steps=9, eos=2)
    assert len(places) == 1
    assert any(sorted(order) != order or len(set(order)) < 4 for order in orders[1:])
    assert reused, "no row died: the case does not test what it is for"


def test_it_runs_and_fits_on_a_few_screens(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FILE), run_name="__main__")
    *hypotheses, memory = capsys.readouterr().out.splitlines()
    assert len(hypotheses) == 4
    scores = [float(line.split()[0]) for line in hypotheses]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0
    assert memory.startswith("numbers kept:")
    assert len(FILE.read_text().splitlines()) <= 150
