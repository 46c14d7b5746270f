"""Bytes of state, counted while generating, against the formulas of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import el_attention
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.state import States
from tiny import batch, build, dictionary, generator_of, prompts

LAYERS, WIDTH, BEAM, LENGTHS = 3, 24, 4, [9, 5, 7]
OPTIONS = {"beam": BEAM, "max_len_b": 30, "min_len": 25}


def storages(tensors: list[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`."""
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[DecodingState]:
    """The decoding states of the generations of a test."""
    seen: list[DecodingState] = []
    attach = DecodingState.attach

    def attaching(self: DecodingState, incremental_state: dict[str, Any]) -> None:
        seen.append(self)
        attach(self, incremental_state)

    monkeypatch.setattr(DecodingState, "attach", attaching)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["transformer", "bart"])
def test_the_source_is_kept_once_for_all_beams_and_layers(family, dtype, states) -> None:
    symbols = dictionary()
    model = build(family, symbols, encoder_embed_dim=20).to(dtype)
    generator = generator_of([model], symbols, OPTIONS)
    el_attention.convert(generator, "expanded-query")
    generator.generate(None, batch(symbols, LENGTHS))
    (state,) = (found.states for found in states)
    cross = state.cross_caches.values()
    assert len(cross) == LAYERS and state.source is not None
    kept = [tensor for cache in cross for segment in cache.segments for tensor in segment]
    expected = len(LENGTHS) * max(LENGTHS) * 20 * dtype.itemsize
    assert storages([state.source.states, *kept]) == expected


def test_keys_and_values_of_fairseq_are_two_per_layer_and_beam_larger(states) -> None:
    """96 times for BART-large with beam 4; here 2 x 3 layers x 4 beams = 24 times."""
    symbols = dictionary()
    model = build("transformer", symbols)
    generator = generator_of([model], symbols, OPTIONS)
    incremental: list[Any] = []
    reorder = generator.model.reorder_incremental_state

    def reordering(incremental_states: Any, new_order: Tensor) -> None:
        reorder(incremental_states, new_order)
        incremental.extend(incremental_states)

    generator.model.reorder_incremental_state = reordering
    generator.generate(None, batch(symbols, LENGTHS))
    attentions = [layer.encoder_attn for layer in generator.model.models[0].decoder.layers]
    kept = []
    for attention in attentions:
        buffer = attention._get_input_buffer(incremental[0])
        kept += [buffer["prev_key"], buffer["prev_value"]]
    stock = sum(tensor.size(0) * tensor[0].nbytes for tensor in kept) / (kept[0].size(0) / BEAM)

    el_attention.convert(generator, "expanded-query").generate(None, batch(symbols, LENGTHS))
    (state,) = (found.states for found in states)
    assert state.source is not None
    ours = state.source.states.nbytes / len(LENGTHS)
    assert stock == 2 * LAYERS * BEAM * ours


@pytest.mark.parametrize("plan", ["expanded-query", "shared-projection"])
@pytest.mark.parametrize("beam", [1, 4])
def test_generated_tokens_keep_one_row_per_layer(plan, beam, states, monkeypatch) -> None:
    symbols = dictionary()
    generator = generator_of([build("transformer", symbols)], symbols, {**OPTIONS, "beam": beam})
    el_attention.convert(generator, plan)
    per_row = WIDTH * 4 * (1 if plan == "expanded-query" else 2)
    checked = []
    advance = States.advance

    def advancing(self: States, position: int, *args: Any) -> None:
        advance(self, position, *args)
        own = self.self_caches.values()
        for cache in own:
            reserved = sum(s.rows * s.width for s in self.tree.segments[: len(cache.segments)])
            assert cache.nbytes == reserved * per_row
            assert (
                storages([t for segment in cache.segments for t in segment]) == reserved * per_row
            )
        if beam == 1:
            assert self.tree.live_rows == self.tree.sentences * (position + 1)
        else:
            assert self.tree.live_rows < self.tree.sentences * (position + 1) * beam or position < 3
        checked.append(len(own))

    monkeypatch.setattr(States, "advance", advancing)
    generator.generate(None, batch(symbols, LENGTHS))
    assert len(checked) > 20 and checked[-1] == LAYERS


def test_a_prompt_is_kept_once_per_sentence_and_layer(states) -> None:
    symbols = dictionary()
    generator = generator_of([build("lm", symbols)], symbols, {"beam": BEAM, "max_len_b": 12})
    el_attention.convert(generator, "expanded-query")
    lengths = [7, 5, 2]
    generator.generate(None, batch(symbols, [3, 3, 3]), prefix_tokens=prompts(symbols, lengths))
    (state,) = states
    rows = max(lengths) + 1  # and the beginning of the sequence
    first = [cache.segments[0] for cache in state.states.self_caches.values()]
    assert len(first) == LAYERS
    for keys, values in first:
        assert keys is values
        assert keys.shape == (rows, len(lengths), 1, WIDTH)
        assert keys.untyped_storage().nbytes() == rows * len(lengths) * WIDTH * 4


def test_attention_is_not_recorded_unless_asked_for() -> None:
    symbols = dictionary()
    for options, recorded in (({}, False), ({"print_alignment": "hard"}, True)):
        generator = generator_of([build("transformer", symbols)], symbols, {**OPTIONS, **options})
        el_attention.convert(generator)
        hypotheses = generator.generate(None, batch(symbols, LENGTHS))
        assert bool(hypotheses[0][0]["attention"].numel()) is recorded
