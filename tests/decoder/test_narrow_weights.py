"""Narrow weights in specs: which there are, and that steps have the same bits with them."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from el_attention.attention import PLANS, Planner
from el_attention.cost import Architecture, Stack
from el_attention.decoder import Affine, DecoderSpec, Decoding, NarrowWeights
from el_attention.decoder import narrow as narrow_module
from el_attention.ops import NARROW_DTYPES, extension
from el_attention.state import Source
from random_decoder import VOCAB_SIZE, WIDTH, Shape, random_decoder

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)

SHAPES = {
    "source": Shape(source=12),
    "like T5": Shape(rms=True, gated=True, biases=False, positions=False, biases_by_position=1),
    "transposed": Shape(transposed=True, pre_norm=True),
    "shared layers": Shape(repeats=True, source=11),
    "projections in and out": Shape(outer=8, sinks=2),
}


# Numbers of one of the dtypes alone.
EXACT_IN = {torch.float16: 1 + 2**-10, torch.bfloat16: 2.0**-130}


def affines(part: Any) -> Iterator[Affine]:
    """Every affine layer of a spec, as often as it stands there."""
    if isinstance(part, Affine):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from affines(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from affines(getattr(part, field.name))


def exact_decoder(shape: Shape, dtype: torch.dtype = torch.float16) -> DecoderSpec:
    """A float32 decoder whose weights are numbers of a 16-bit dtype."""
    spec = random_decoder(shape, torch.float32)
    for affine in affines(spec):
        affine.weight.copy_(affine.weight.to(dtype))
        affine.weight[0, 0] = EXACT_IN[dtype]
    return spec


def logits(spec: DecoderSpec, plan: str, shape: Shape) -> Tensor:
    """Logits of a prompt and of three steps."""
    random = torch.Generator().manual_seed(0)
    source = None
    if shape.source:
        source = Source(torch.randn(5, 2, shape.source, generator=random), None)
    stack = Stack(2, WIDTH, 10, 2)
    planner = Planner(plan, Architecture("tiny", stack, stack, VOCAB_SIZE))
    decoding = Decoding(spec, planner, 2, 3, source)
    tokens = torch.randint(VOCAB_SIZE, (4, 6), generator=random)
    assert spec.output is not None
    found = [spec.output(decoding.prefill(tokens[:3, :2].t())).flatten(0, 1)]
    found += [
        spec.output(decoding.step(row, 3 + step).hidden) for step, row in enumerate(tokens[1:])
    ]
    return torch.cat(found)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", NARROW_DTYPES, ids=str)
def test_steps_give_the_bits_of_float32_weights(dtype, name, plan):
    spec = exact_decoder(SHAPES[name], dtype)
    added = NarrowWeights().added_to(spec)
    for before, after in zip(affines(spec), affines(added), strict=True):
        assert after.weight is before.weight and after.narrow is not None
        assert after.narrow.dtype == dtype
    assert torch.equal(logits(added, plan, SHAPES[name]), logits(spec, plan, SHAPES[name]))


def test_what_is_shared_stays_shared():
    shape = Shape(repeats=True, source=11, biases_by_position=1)
    spec = NarrowWeights().added_to(exact_decoder(shape))
    assert spec.layers[-1] is spec.layers[0]
    assert len(spec.position_biases) == 1


def test_a_tied_table_has_one_copy():
    spec = exact_decoder(SHAPES["source"])
    assert spec.output is not None
    tied = replace(spec.output, projection=Affine(spec.embedding.tokens.half().float()))
    layer = replace(
        spec.layers[0].feed_forward, up=tied.projection, down=Affine(torch.ones(12, 23))
    )
    spec = replace(
        spec,
        output=tied,
        layers=(replace(spec.layers[0], feed_forward=layer),),
    )
    added = NarrowWeights().added_to(spec)
    assert added.output is not None
    assert added.output.projection.narrow is added.layers[0].feed_forward.up.narrow is not None


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16))
def test_decoders_of_another_dtype_have_none(dtype):
    spec = random_decoder(Shape(), dtype)
    assert NarrowWeights().added_to(spec) is spec


def test_a_decoder_without_exact_weights_stays_as_it_is():
    spec = random_decoder(Shape(source=12, sinks=1), torch.float32)
    assert NarrowWeights().added_to(spec) is spec


def test_without_the_compiled_operators_there_are_none(monkeypatch):
    monkeypatch.setattr(extension, "unsupported", "not built: this test does without")
    spec = exact_decoder(Shape())
    assert NarrowWeights().added_to(spec) is spec


def test_a_weight_of_mixed_exactness_stays_alone_and_the_log_says_how_many_do_not(caplog):
    caplog.set_level(logging.INFO, narrow_module.__name__)
    spec, weights = exact_decoder(Shape()), NarrowWeights()
    odd = spec.layers[1].feed_forward.down
    odd.weight[-1, -1] = 1 / 3
    for _ in range(2):
        added = weights.added_to(spec)
    pairs = list(zip(affines(spec), affines(added), strict=True))
    assert [before is odd for before, _ in pairs] == [after.narrow is None for _, after in pairs]
    (line,) = caplog.messages
    assert f"{len(pairs) - 1} of {len(pairs)}" in line


@pytest.mark.parametrize("is_recorded", (True, False))
def test_a_weight_that_changed_has_another_copy_in_the_next_generation(is_recorded):
    spec, weights = exact_decoder(Shape()), NarrowWeights()
    first = weights.added_to(spec)
    changed = spec.layers[0].self_attn.key.weight
    (changed if is_recorded else changed.data).mul_(-2.0)
    second = weights.added_to(spec)
    key = second.layers[0].self_attn.key.narrow
    assert key is not None and torch.equal(key.float(), changed)
    assert key is not first.layers[0].self_attn.key.narrow
    assert second.layers[0].self_attn.query.narrow is first.layers[0].self_attn.query.narrow
    changed.add_(1 / 3)
    assert weights.added_to(spec).layers[0].self_attn.key.narrow is None


@pytest.mark.parametrize("is_inference", (True, False))
def test_a_weight_that_becomes_exact_has_a_copy_in_the_next_generation(is_inference):
    with torch.inference_mode(is_inference):
        spec, weights = random_decoder(Shape(), torch.float32), NarrowWeights()
        assert weights.added_to(spec) is weights.added_to(spec) is spec
        changed = spec.layers[0].self_attn.key.weight
        changed.copy_(changed.half())
        (narrow,) = (
            found.narrow for found in affines(weights.added_to(spec)) if found.narrow is not None
        )
        assert torch.equal(narrow.float(), changed)


def test_a_weight_without_a_copy_is_looked_at_once(monkeypatch):
    spec, weights = random_decoder(Shape(), torch.float32), NarrowWeights()
    weights.added_to(spec)
    monkeypatch.setattr(narrow_module, "narrowed", pytest.fail)
    monkeypatch.setattr(narrow_module, "free_bytes", pytest.fail)
    assert weights.added_to(spec) is spec


def test_what_does_not_fit_in_half_of_free_memory_is_left_out(monkeypatch, caplog):
    caplog.set_level(logging.INFO, narrow_module.__name__)
    spec, weights = exact_decoder(Shape()), NarrowWeights()
    sizes = [2 * affine.weight.numel() for affine in affines(spec)]
    monkeypatch.setattr(narrow_module, "free_bytes", lambda device: 2 * sum(sizes) - 2)
    added = weights.added_to(spec)
    assert sum(affine.narrow is None for affine in affines(added)) == 1
    assert "no room for 1" in caplog.text
    monkeypatch.setattr(narrow_module, "free_bytes", lambda device: 0)
    assert sum(affine.narrow is None for affine in affines(weights.added_to(spec))) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_model_has_none_yet(copied):
    weights = NarrowWeights()
    weights.added_to(exact_decoder(Shape()))
    assert copied(weights)._kept == {} != weights._kept
