"""A layer's step in one call against the same step operator by operator: the same bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from crossed import crossed
from el_attention.attention import PLANS, Planner
from el_attention.cost import Architecture, Stack
from el_attention.decoder import DecoderSpec, Decoding, NarrowWeights
from el_attention.decoder.compiled_layer import unsupported
from el_attention.ops import compiled
from el_attention.state import Source
from one_by_one import take_operators_one_by_one
from random_decoder import VOCAB_SIZE, WIDTH, Shape, random_decoder

pytestmark = pytest.mark.skipif(
    compiled.unsupported(torch.empty(1)) is not None, reason="no compiled operators"
)

SHAPES = {
    "language model": Shape(),
    "pre-norm": Shape(pre_norm=True, source=5, biases=False, scaled=False),
    "gated": Shape(gated=True, rms=True, biases=False, source=WIDTH),
    "transposed": Shape(transposed=True, source=9, heads=3, head_width=3),
    "shared layers": Shape(repeats=True, source=11),
    "biases by position": Shape(biases_by_position=2, layers=3, heads=3, source=4),
}
STACK = Stack(2, WIDTH, 10, 2)


def decoding_of(
    spec: DecoderSpec, plan: str, beam: int, shape: Shape, monkeypatch, in_one_call: bool
) -> Decoding:
    random = torch.Generator().manual_seed(3)
    source = None
    if shape.source:
        states = torch.randn(5, 3, shape.source, generator=random).to(spec.dtype)
        source = Source(states, torch.arange(5) >= torch.tensor([5, 2, 4])[:, None])
    planner = Planner(plan, Architecture("tiny", STACK, STACK, VOCAB_SIZE))
    with monkeypatch.context() as patch:
        if not in_one_call:
            take_operators_one_by_one(patch)
        return Decoding(spec, planner, 3, beam, source)


def steps(decoding: Decoding, beam: int, prompt: bool) -> list[Tensor]:
    """Steps with reorders, sentences that finish, ones that wait, and weights asked for once."""
    random = torch.Generator().manual_seed(4)
    found, sentences = [], 3
    position = 0
    if prompt:
        tokens = torch.randint(VOCAB_SIZE, (3, 4), generator=random)
        left = torch.arange(4) < torch.tensor([0, 2, 1])[:, None]
        found.append(decoding.prefill(tokens, left)[:, -1])
        position = 4
    has_source = decoding.states.source is not None
    for number in range(40 if beam < 9 else 6):
        active = torch.tensor([0]) if number == 2 and not decoding.spec.position_biases else None
        rows = (sentences if active is None else 1) * beam
        tokens = torch.randint(VOCAB_SIZE, (rows,), generator=random)
        is_padding = None if number != 3 else torch.arange(rows) == 1
        asked = 1 if has_source and number == 4 else None
        at = min(position + number, 30)
        step = decoding.step(tokens, at, is_padding, active, weights_of=asked)
        assert (step.weights is not None) == (asked is not None)
        found += [step.hidden, *step.inner]
        kept = [0, 2] if number == 4 else list(range(sentences))
        sentences = len(kept)
        parents = torch.randint(beam, (sentences, beam), generator=random)
        decoding.reorder((torch.tensor(kept)[:, None] * beam + parents).flatten())
    return [*found, *decoding.states.tensors()]


def same_bits(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize(
    ("dtype", "beam", "prompt", "plan", "name"),
    crossed([torch.float32, torch.bfloat16], [(1, True), (3, False), (100, True)], PLANS, SHAPES),
)
def test_one_call_gives_the_bits_of_the_operators(
    name, plan, beam, prompt, dtype, monkeypatch
) -> None:
    shape = SHAPES[name]
    spec = random_decoder(shape, dtype)
    with torch.no_grad():
        results = []
        for in_one_call in (True, False):
            decoding = decoding_of(spec, plan, beam, shape, monkeypatch, in_one_call)
            assert {part.is_compiled for part in decoding._layers} == {in_one_call}
            results.append(steps(decoding, beam, prompt))
    assert same_bits(*results)


@pytest.mark.parametrize("beam", [1, 5])
def test_one_call_reads_narrow_weights(beam, monkeypatch) -> None:
    shape = Shape(source=6)
    narrow = random_decoder(shape, torch.bfloat16)
    spec = random_decoder(shape, torch.float32)
    for part, values in zip(spec.layers, narrow.layers, strict=True):
        part.self_attn.query.weight.copy_(values.self_attn.query.weight)
        part.feed_forward.up.weight.copy_(values.feed_forward.up.weight)
    added = NarrowWeights().added_to(spec)
    assert added.layers[0].self_attn.query.narrow is not None
    read: list[torch.dtype] = []
    results = []
    with torch.no_grad():
        for spec_of, in_one_call in ((added, True), (added, False), (spec, True)):
            decoding = decoding_of(
                spec_of, "shared-projection", beam, shape, monkeypatch, in_one_call
            )
            with Weights() as weights:
                results.append(steps(decoding, beam, prompt=False))
            read.append(weights.narrowest)
    assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])
    assert read == [torch.float16, torch.float16, torch.float32]


@pytest.mark.parametrize("beam", [1, 5, 100])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_call_takes_narrow_weights_alone(transposed, beam, monkeypatch) -> None:
    """Of few rows, of more, and of more than the operator takes."""
    shape = Shape(source=6, transposed=transposed)
    spec = random_decoder(shape, torch.float32)
    layers = []
    for layer in spec.layers:
        query, up = layer.self_attn.query, layer.feed_forward.up
        for affine in (query, up):
            affine.weight.copy_(affine.weight.half())
        self_attn = replace(layer.self_attn, query=replace(query, weight=query.weight.half()))
        feed_forward = replace(layer.feed_forward, up=replace(up, weight=up.weight.half()))
        layers.append(replace(layer, self_attn=self_attn, feed_forward=feed_forward))
    alone = replace(spec, layers=tuple(layers))
    results = []
    with torch.no_grad():
        for spec_of, in_one_call in ((alone, True), (alone, False), (spec, True)):
            decoding = decoding_of(
                spec_of, "shared-projection", beam, shape, monkeypatch, in_one_call
            )
            results.append(steps(decoding, beam, prompt=True))
    assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])


class Weights(torch.utils._python_dispatch.TorchDispatchMode):
    """Watches which weights the operator of linear layers reads."""

    narrowest = torch.float32

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.el_attention.linear.default:
            self.narrowest = min(self.narrowest, args[1].dtype, key=lambda dtype: dtype.itemsize)
        return func(*args, **(kwargs or {}))


def test_what_one_call_cannot_do_is_left_to_the_operators() -> None:
    spec = random_decoder(Shape()).layers[0]
    assert unsupported(spec) is None
    with_sink = random_decoder(Shape(sinks=1)).layers[0]
    assert unsupported(with_sink) == "there are keys and values outside the rows"

    class Other(Tensor):
        pass

    other = replace(spec.self_attn.query, weight=spec.self_attn.query.weight.as_subclass(Other))
    of_other = replace(spec, self_attn=replace(spec.self_attn, query=other))
    assert unsupported(of_other) == "a weight is a Other"
    norm = replace(spec.feed_forward_norm, weight=torch.empty(WIDTH, device="meta"))
    meta = replace(spec, feed_forward_norm=norm)
    assert unsupported(meta) == "it is on cpu and meta"


def test_gradients_are_those_of_the_operators(monkeypatch) -> None:
    shape = Shape(source=6)
    spec = random_decoder(shape)
    weight = spec.layers[0].feed_forward.up.weight.requires_grad_()

    def gradient(in_one_call: bool) -> Tensor:
        decoding = decoding_of(spec, "shared-projection", 2, shape, monkeypatch, in_one_call)
        (found,) = torch.autograd.grad(decoding.step(torch.arange(6), 0).hidden.cos().sum(), weight)
        return found

    assert gradient(True).abs().sum() > 0
    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("plan", PLANS)
def test_the_source_has_the_gradient_of_the_operators(plan, monkeypatch) -> None:
    shape = Shape(source=6)
    spec = random_decoder(shape)

    def gradient(in_one_call: bool) -> Tensor:
        decoding = decoding_of(spec, plan, 2, shape, monkeypatch, in_one_call)
        assert decoding.states.source is not None
        states = decoding.states.source.states.requires_grad_()
        (found,) = torch.autograd.grad(decoding.step(torch.arange(6), 0).hidden.cos().sum(), states)
        return found

    assert gradient(True).abs().sum() > 0
    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("plan", PLANS)
def test_the_source_has_the_tangent_of_the_operators(plan, monkeypatch) -> None:
    shape = Shape(source=6)
    spec = random_decoder(shape)

    def tangent(in_one_call: bool) -> Tensor:
        decoding = decoding_of(spec, plan, 2, shape, monkeypatch, in_one_call)
        source = decoding.states.source
        assert source is not None
        states = forward_ad.make_dual(source.states, torch.ones_like(source.states))
        decoding.states.source = replace(source, states=states)
        return forward_ad.unpack_dual(decoding.step(torch.arange(6), 0).hidden).tangent

    with torch.no_grad(), forward_ad.dual_level():
        assert tangent(True).abs().sum() > 0
        assert torch.equal(tangent(True), tangent(False))


def test_an_error_of_an_activation_is_raised_as_it_is() -> None:
    class OfTheUserError(Exception):
        pass

    def fail(x: Tensor) -> Tensor:
        raise OfTheUserError

    spec = random_decoder(Shape())
    broken = replace(
        spec.layers[0], feed_forward=replace(spec.layers[0].feed_forward, activation=fail)
    )
    planner = Planner("auto", Architecture("tiny", STACK, STACK, VOCAB_SIZE))
    decoding = Decoding(replace(spec, layers=(broken,)), planner, 1, 2)
    with pytest.raises(OfTheUserError), torch.no_grad():
        decoding.step(torch.arange(2), 0)
