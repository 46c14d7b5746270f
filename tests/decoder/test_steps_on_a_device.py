"""Steps with a tree on the host and all else on a device have the bits of those on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from el_attention.decoder import DecoderSpec, Decoding
from el_attention.state import Source
from half_decode import PLANNER, SHAPE
from one_by_one import take_operators_one_by_one
from random_decoder import VOCAB_SIZE, random_decoder
from waits import watched

SENTENCES, BEAM, PROMPT = 3, 4, 5
# After each step: stay, go on from others, leave a sentence out, mix sentences.
ORDERS = [
    list(range(12)),
    [1, 1, 0, 3, 4, 4, 4, 4, 11, 10, 9, 8],
    [*range(4), 9, 9, 8, 10],
    [0, 5, 5, 2, 7, 7, 1, 0],
    [3, 3, 1, 7],
]


def inputs() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def tokens(*size: int) -> Tensor:
        return torch.randint(VOCAB_SIZE, size, generator=random)

    return {
        "source": torch.randn(7, SENTENCES, SHAPE.source, generator=random),
        "source_padding": torch.arange(7) >= torch.tensor([[7], [4], [6]]),
        "prompt": tokens(SENTENCES, PROMPT),
        "prompt_padding": torch.arange(PROMPT) >= torch.tensor([[5], [2], [4]]),
        "tokens": tokens(len(ORDERS) + 2, SENTENCES * BEAM),
        "is_padding": torch.tensor([False, True] * (SENTENCES * BEAM // 2)),
    }


def decoded(
    spec: DecoderSpec, given: dict[str, Tensor], active: Tensor, orders: list[Tensor]
) -> list[Tensor]:
    source = Source(given["source"], given["source_padding"])
    decoding = Decoding(spec, PLANNER, SENTENCES, BEAM, source, keeps_positions=True)
    first = decoding.prefill(given["prompt"], given["prompt_padding"])
    found = [first.masked_fill(given["prompt_padding"].unsqueeze(2), 0.0)]
    newest = given["tokens"]
    found.append(decoding.step(newest[0][: 2 * BEAM], 4, active=active).hidden)
    found.append(decoding.step(newest[1], PROMPT, given["is_padding"]).hidden)
    for step, order in enumerate(orders):
        decoding.reorder(order)
        found.append(decoding.step(newest[2 + step][: len(order)], PROMPT + 1 + step).hidden)
    keys, values = decoding.keys_and_values()[0][0]
    return [*found, keys, values]


@pytest.mark.parametrize("order_on_host", [True, False])
def test_a_tree_on_the_host_changes_no_bit(order_on_host, monkeypatch: pytest.MonkeyPatch) -> None:
    take_operators_one_by_one(monkeypatch)  # as on a GPU
    spec, given = random_decoder(SHAPE, torch.float32), inputs()
    orders = [torch.tensor(order) for order in ORDERS]
    expected = decoded(spec, given, torch.tensor([1, 2]), orders)
    with watched() as steps:
        if order_on_host:
            orders = [torch.tensor(order) for order in ORDERS]
        found = decoded(spec, given, torch.tensor([1, 2]), orders)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    # Padding of the tokens is read in its step, as is an order that the host does not have.
    reads = [int(not order_on_host)] * len(ORDERS) + [0]
    assert [step.waits.total() for step in steps[1:]] == [0, 1 + reads[0], *reads[1:]]
    assert all(step.copies.total() == 0 for step in steps)
