"""TorchScript of converted objects: that of fairseq's own, without a change of the converted."""

from __future__ import annotations

import copy
import logging
import pickle
from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

import el_attention
from crossed import crossed
from el_attention.fairseq_plugin.decoder import ELDecoder
from families import SYMBOLS, WITH_ENCODER, model_of
from tiny import TinyTask, assert_same, batch, build, generator_of, prompts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

OPTIONS = {"beam": 3, "max_len_b": 8, "no_repeat_ngram_size": 2}


def inputs() -> dict[str, dict[str, Tensor]]:
    return {"net_input": batch(SYMBOLS, [5, 3])["net_input"]}


def classes(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules()]


@pytest.mark.parametrize("family", crossed(["transformer", "bart"]))
def test_a_scripted_generator_is_that_of_stock(family: str) -> None:
    stock = generator_of([model_of(family)], SYMBOLS, OPTIONS)
    ours = el_attention.convert(copy.deepcopy(stock))
    before = classes(ours)
    scripted: Any = torch.jit.script(ours)
    expected: Any = torch.jit.script(stock)
    assert_same(expected(inputs()), scripted(inputs()))
    assert classes(ours) == before and ours.model.beam == 3
    assert_same(
        el_attention.convert(generator_of([model_of(family)], SYMBOLS, OPTIONS)).generate(
            None, inputs()
        ),
        ours.generate(None, inputs()),
    )


@pytest.mark.parametrize(
    ("family", "part"),
    [("transformer", "encoder"), ("bart", "decoder"), ("lm", "decoder")],
)
def test_scripted_parts_of_a_model_are_those_of_stock(family: str, part: str) -> None:
    ours = el_attention.convert(copy.deepcopy(model_of(family)))
    before = classes(ours)
    scripted = torch.jit.script(ours.get_submodule(part))
    assert classes(ours) == before
    stock = torch.jit.script(copy.deepcopy(model_of(family)).get_submodule(part))
    for (name, got), (_, want) in zip(
        scripted.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(got, want), name


def prepared(model: BaseFairseqModel, way: str) -> BaseFairseqModel:
    """The model as fairseq's programs or its users prepare it."""
    if way == "prepare_for_inference_":
        generation = Namespace(
            beam=3, print_alignment=False, replace_unk=None, retain_dropout=False
        )
        model.prepare_for_inference_(Namespace(generation=generation))
    elif way == "make_generation_fast_":
        model.make_generation_fast_(beamable_mm_beam_size=3, need_attn=False)
    return model


def generator_over(model: BaseFairseqModel) -> Any:
    """A stock generator over the model itself, not a copy."""
    return TinyTask(SYMBOLS).build_generator([model], Namespace(beam=3, max_len_b=8))


def result_of(model: BaseFairseqModel, form: str) -> Any:
    """What is computed after a model was scripted alone, in a generator or in a converted one."""
    if form == "model":
        net_input = inputs()["net_input"]
        tokens = prompts(SYMBOLS, [4, 4])
        return torch.jit.script(model)(net_input["src_tokens"], net_input["src_lengths"], tokens)[0]
    generator = generator_over(model)
    if form == "converted generator" and isinstance(model.decoder, ELDecoder):
        el_attention.convert(generator)
    return torch.jit.script(generator)(inputs())


PREPARED = [(family, "none", "before") for family in WITH_ENCODER] + [
    (family, way, order)
    for family, way in (
        ("transformer", "prepare_for_inference_"),
        ("bart", "make_generation_fast_"),
    )
    for order in ("before", "after")
]
CASES = crossed((*case, "model") for case in PREPARED) + [
    pytest.param(*case, form, marks=pytest.mark.slow)  # torch takes seconds to compile a search
    for case in PREPARED
    for form in ("generator", "converted generator")
]


@pytest.mark.parametrize(("family", "way", "order", "form"), CASES)
def test_a_scripted_model_is_that_of_stock_and_the_model_stays_converted(
    family, way, order, form, monkeypatch
) -> None:
    stock = prepared(copy.deepcopy(model_of(family)), way)
    ours = copy.deepcopy(model_of(family))
    if order == "before":
        el_attention.convert(prepared(ours, way))
    else:
        prepared(el_attention.convert(ours), way)
    before, parts = classes(ours), [*ours.modules()]
    expected, got = result_of(stock, form), result_of(ours, form)
    if form == "model":
        assert torch.equal(got, expected)
    else:
        assert_same(expected, got)
    assert classes(ours) == before
    assert all(one is other for one, other in zip(ours.modules(), parts, strict=True))
    begin, began = ELDecoder.begin, []

    def watched(self: ELDecoder, *args: Any, **more: Any) -> Any:
        began.append(self)
        return begin(self, *args, **more)

    monkeypatch.setattr(ELDecoder, "begin", watched)
    stock = generator_over(copy.deepcopy(model_of(family)))
    assert_same(stock.generate(None, inputs()), generator_over(ours).generate(None, inputs()))
    assert began


def test_a_scripted_copy_shares_the_weights_and_the_log_says_what_holds_it(caplog) -> None:
    model = el_attention.convert(copy.deepcopy(model_of("transformer")))
    generator = generator_over(model)
    with caplog.at_level(logging.INFO):
        scripted = torch.jit.script(generator)
    assert "compiles a TransformerModel without shared states" in caplog.text
    assert generator.model.models[0] is not model
    for theirs, own in zip(scripted.parameters(), generator_over(model).parameters(), strict=True):
        assert theirs is own or theirs.data_ptr() == own.data_ptr()


@pytest.mark.parametrize("architecture", ["transformer", "el_transformer"])
def test_models_keep_their_class_by_name_and_can_be_copied(architecture) -> None:
    model = el_attention.convert(build(architecture, SYMBOLS))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    name = "TransformerModel" if architecture == "transformer" else "ELTransformerModel"
    assert type(model).__name__ == type(twin).__name__ == name
    assert type(twin) is type(model)


def test_what_stock_cannot_script_gives_the_error_of_stock() -> None:
    errors = []
    for convert in (False, True):
        model = copy.deepcopy(model_of("lm"))
        with pytest.raises(torch.jit.frontend.NotSupportedError) as caught:
            torch.jit.script(el_attention.convert(model) if convert else model)
        errors.append(str(caught.value).splitlines()[0])
    assert errors[0] == errors[1]
