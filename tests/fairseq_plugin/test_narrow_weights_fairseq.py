"""fairseq's models whose weights are 16-bit numbers, read as float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel

import el_attention
from el_attention.cost import narrow_weights
from el_attention.decoder import NarrowWeights
from el_attention.fairseq_plugin.architecture import architecture_of
from el_attention.ops import NARROW_DTYPES, extension
from families import DEFAULT, SYMBOLS, generate, model_of
from tiny import Hypotheses, assert_same, generator_of

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


def exact_model(family: str, dtype: torch.dtype = torch.float16) -> BaseFairseqModel:
    """A float32 model as if it were read from a checkpoint of another dtype."""
    return copy.deepcopy(model_of(family)).to(dtype).float()


def assert_equal(expected: Hypotheses, found: Hypotheses) -> None:
    """Asserts the same hypotheses with the same bits."""
    for ours, theirs in zip(expected, found, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            for key in ("tokens", "score", "positional_scores"):
                assert torch.equal(one[key], other[key])


@pytest.mark.parametrize("dtype", NARROW_DTYPES, ids=str)
@pytest.mark.parametrize("plan", ("expanded-query", "shared-projection"))
@pytest.mark.parametrize("family", ("bart", "lm"))
def test_hypotheses_and_scores_have_the_bits_of_float32_weights(family, plan, dtype, monkeypatch):
    model = exact_model(family, dtype)
    found = generate([model], family, plan=plan)
    assert_same(generate([model], family), found)
    monkeypatch.setattr(NarrowWeights, "added_to", lambda self, spec: spec)
    assert_equal(generate([model], family, plan=plan), found)


def restored(model: Any) -> None:
    model.load_state_dict(exact_model("transformer").state_dict())


def scaled_in_place(model: Any) -> None:
    with torch.no_grad():
        model.decoder.layers[0].fc1.weight.mul_(-4.0)


def scaled_unnoticed(model: Any) -> None:
    model.decoder.layers[0].fc1.weight.data.mul_(-4.0)


def rounded_and_widened(model: Any) -> None:
    model.bfloat16().float()


def replaced(model: Any) -> None:
    fc1 = model.decoder.layers[0].fc1
    fc1.weight = torch.nn.Parameter(fc1.weight.detach() / 3)


@pytest.mark.parametrize(
    "change", (restored, scaled_in_place, scaled_unnoticed, rounded_and_widened, replaced)
)
def test_weights_that_change_between_generations_count_as_they_are(change: Callable[..., None]):
    model = exact_model("transformer")
    if change is restored:
        model = copy.deepcopy(model_of("transformer", 1)).half().float()
    generator = generator_of([model], SYMBOLS, DEFAULT.generation_options())
    el_attention.convert(generator, "shared-projection")
    before = generator.generate(None, DEFAULT.sample())
    change(generator.model.single_model)
    change(model)
    expected = generate([model], "transformer")
    assert expected[0][0]["score"] != before[0][0]["score"]
    assert_same(expected, generator.generate(None, DEFAULT.sample()))


def test_a_model_that_is_converted_again_keeps_its_narrow_weights():
    model = el_attention.convert(exact_model("lm"), "expanded-query")
    kept = model.decoder.el_narrow
    assert el_attention.convert(model, "shared-projection").decoder.el_narrow is kept


@pytest.mark.parametrize("family", ("transformer", "lm"))
def test_they_take_the_memory_of_the_formula(family):
    model = el_attention.convert(exact_model(family))
    layers = model.decoder.el_spec(with_source=family != "lm").layers
    assert all(layer.self_attn.key.narrow is not None for layer in layers)
    size = sum(narrow.nbytes for narrow in model.decoder.el_narrow._kept.values())
    assert size == narrow_weights(architecture_of(model))
