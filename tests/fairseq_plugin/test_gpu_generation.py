"""Acceptance on a GPU beside fairseq, `pytest -m gpu`: the hypotheses of stock fairseq."""

from __future__ import annotations

import pytest
import torch

from tiny import FAMILIES, PLANS, assert_same, batch, build, dictionary, generate_both

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("exact_softmax")
def test_generation_on_a_gpu_gives_the_hypotheses_of_stock_fairseq(family, plan) -> None:
    symbols = dictionary()
    sample = batch(symbols, [9, 4, 7], left_pad=family != "lm")
    sample["net_input"] = {name: x.to("cuda") for name, x in sample["net_input"].items()}
    model = build(family, symbols).double().to("cuda")
    options = {"beam": 4, "max_len_b": 20}
    stock, ours = generate_both([model], symbols, sample, plan, options)
    assert_same(stock, ours, tolerance=1e-9)
