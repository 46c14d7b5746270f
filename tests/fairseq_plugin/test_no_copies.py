"""Beam search moves no states: every operator that touches them is watched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import el_attention
from crossed import crossed
from el_attention.fairseq_plugin.decoder import ELDecoder
from el_attention.fairseq_plugin.encoder import ELEncoder
from el_attention.state import States
from tiny import PLANS, assert_same, batch, build, dictionary, diverse, generator_of, prompts

# What may read a stored state: matrix products and our operators.  What may change one: the write
# of new rows.
READS = {"attend", "weights", "linear", "bmm", "mm", "addmm", "matmul"}
WRITES = {"index_copy_"}
VIEWS = {
    "view", "_unsafe_view", "transpose", "permute", "slice", "expand", "select", "t", "detach",
    "unsqueeze", "squeeze", "alias", "as_strided", "reshape",
}  # fmt: skip


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Watch(TorchDispatchMode):
    """Counts the operators that take a tensor whose storage holds states."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        if any(storage(x) in self.states for x in inputs):
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class FloatsTouched(TorchDispatchMode):
    """Counts the operators that take or make a floating-point tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs or {}, result)) if isinstance(x, Tensor)]
        FloatsTouched.count += any(x.is_floating_point() for x in tensors)
        return result


@pytest.fixture
def reorders(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Runs every reordering hook under `FloatsTouched`; counts the calls and what changed."""
    seen: Counter[str] = Counter()
    FloatsTouched.count = 0

    def watched(method: Any, name: str) -> Any:
        def call(self: Any, state: Any, new_order: Tensor) -> Any:
            with FloatsTouched():
                result = method(self, state, new_order)
            seen[name] += 1
            identity = torch.arange(len(new_order))
            seen["moved"] += not torch.equal(new_order, identity)
            return result

        return call

    for owner, name in (
        (ELDecoder, "reorder_incremental_state"),
        (ELEncoder, "reorder_encoder_out"),
    ):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name), name))
    return seen


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("family", "el_generator"),
    # A stock generator does not tell a language model the beam: see the next test.
    [("transformer", True), ("transformer", False), ("bart", True), ("bart", False), ("lm", True)],
)
def test_reordering_and_finishing_touch_no_state(family, plan, el_generator, reorders) -> None:
    symbols = dictionary()
    arguments = {"prefix_tokens": prompts(symbols, [6, 3, 1, 6])} if family == "lm" else {}
    sample = batch(symbols, [9, 5, 7, 2])
    options = {"beam": 4, "max_len_b": 24}
    model = diverse(family, symbols, sample, options, **arguments)
    stock = generator_of([model], symbols, options).generate(None, sample, **arguments)
    reorders.clear()

    generator = generator_of([model], symbols, options)
    el_attention.convert(generator if el_generator else generator.model.models[0], plan)
    assert_same(stock, generator.generate(None, sample, **arguments))
    assert reorders["reorder_incremental_state"] > 8 and reorders["moved"] > 8
    if family == "lm":
        assert reorders["reorder_encoder_out"] == 0
    elif el_generator:  # at the beginning, and whenever sentences leave
        assert 2 <= reorders["reorder_encoder_out"] <= 1 + len(sample["id"])
    else:
        assert reorders["reorder_encoder_out"] == reorders["reorder_incremental_state"] + 1
    assert FloatsTouched.count == 0


def test_mixing_sentences_is_seen_by_the_same_watch(reorders) -> None:
    """A stock generator cannot tell a language model its beam: there, states are copied."""
    symbols = dictionary()
    generator = generator_of([build("lm", symbols)], symbols, {"beam": 3, "max_len_b": 9})
    el_attention.convert(generator.model.models[0])
    generator.generate(None, batch(symbols, [4, 3]), prefix_tokens=prompts(symbols, [3, 2]))
    assert FloatsTouched.count > 0


@pytest.mark.parametrize(("plan", "family"), crossed(PLANS, ["transformer", "bart", "lm"]))
def test_stored_states_are_only_read_by_products_and_never_move(
    family, plan, operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = dictionary()
    generator = generator_of(
        [build(family, symbols)],
        symbols,
        {"beam": 4, "max_len_b": 50, "min_len": 40},
    )
    el_attention.convert(generator, plan)
    watch = Watch()
    steps: Counter[str] = Counter()
    places: dict[Any, Any] = {}
    advance = States.advance

    def advancing(self: States, *args: Any, **kwargs: Any) -> None:
        advance(self, *args, **kwargs)
        steps["count"] += 1
        for tensor in self.tensors():
            watch.states[storage(tensor)] = tensor
        for key, cache in {**self.self_caches, **self.cross_caches}.items():
            for index, (keys, values) in enumerate(cache.segments):
                place = (keys.data_ptr(), values.data_ptr(), keys.shape)
                assert places.setdefault((key, index), place) == place

    monkeypatch.setattr(States, "advance", advancing)
    arguments = {"prefix_tokens": prompts(symbols, [6, 3, 1, 6])} if family == "lm" else {}
    with watch:
        generator.generate(None, batch(symbols, [9, 5, 7, 2]), **arguments)
    assert steps["count"] > 30, "long enough for a second segment"
    assert max(index for _, index in places) >= 1
    assert watch.counts["attend"] + watch.counts["bmm"] > 0 and watch.counts["index_copy_"] > 0
    assert set(watch.counts) <= READS | WRITES | VIEWS, watch.counts
