"""Transformers' models that are there to generate, without the float32 weights that 16 bits say."""

from __future__ import annotations

import copy

import pytest
import torch

import el_attention
from el_attention.decoder import FreedModule
from el_attention.ops import extension
from transformers_models import PLANS, assert_same, assert_served, build, generated, inputs

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


def freed_names(model: torch.nn.Module) -> set[str]:
    return {name for name, part in model.named_modules() if isinstance(part, FreedModule)}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("bart", "model.shared"),
        ("m2m_100", "model.shared"),
        ("pegasus", "model.shared"),
        ("whisper", "model.decoder.embed_tokens"),
        ("t5", "shared"),
        ("opt, post-norm", "model.decoder.embed_tokens"),
        ("gpt2", "transformer.wte"),
        ("gpt_neo", "transformer.wte"),
        ("bert to xglm", "decoder.model.embed_tokens"),
    ],
)
def test_generation_has_the_bits_of_float32_weights(name, table, plan):
    stock = build(name, torch.float16).float()
    ours = el_attention.convert(copy.deepcopy(stock), plan)
    freed = el_attention.convert(copy.deepcopy(stock), plan, generation_only=True)
    names = freed_names(freed)
    arguments = inputs(stock)
    for beams in (1, 4):
        found = generated(freed, arguments, num_beams=beams)
        assert_same(generated(ours, arguments, num_beams=beams), found, 0.0)
    assert_served(freed)
    assert table in names == freed_names(freed)
    state = freed.state_dict()
    assert list(state) == list(stock.state_dict()) and freed_names(freed) == set()
    assert all(torch.equal(state[key], value) for key, value in stock.state_dict().items())


def test_a_forward_of_transformers_finds_the_whole_model():
    stock = build("bart", torch.float16).float()
    freed = el_attention.convert(copy.deepcopy(stock), generation_only=True)
    arguments = inputs(stock)
    with torch.no_grad():
        expected = stock(**arguments, decoder_input_ids=torch.tensor([[2, 5, 7]] * 3)).logits
        found = freed(**arguments, decoder_input_ids=torch.tensor([[2, 5, 7]] * 3)).logits
    assert torch.equal(found, expected) and freed_names(freed) == set()
    assert freed.lm_head.weight is freed.get_input_embeddings().weight


def test_a_model_that_is_saved_is_saved_as_it_was(tmp_path):
    stock = build("bart", torch.float16).float()
    el_attention.convert(copy.deepcopy(stock), generation_only=True).save_pretrained(tmp_path)
    again = type(stock).from_pretrained(tmp_path, dtype=torch.float32)
    for name, value in stock.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
