"""Models of Transformers, converted, against the same models unconverted, token for token."""

from __future__ import annotations

import copy
import functools
import logging
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import el_attention

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")

from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.masking_utils import (  # noqa: E402
    ALL_MASK_ATTENTION_FUNCTIONS,
    sdpa_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

from crossed import crossed  # noqa: E402
from el_attention.decoder import Decoding  # noqa: E402
from el_attention.transformers_plugin.cache import DecodingCache  # noqa: E402
from el_attention.transformers_plugin.families import FAMILIES  # noqa: E402
from el_attention.transformers_plugin.version_4 import IS_4  # noqa: E402
from transformers_models import (  # noqa: E402
    CACHE,
    COMPOSITES,
    MODELS,
    OPTIONS,
    PLANS,
    TWO,
    VOCAB_SIZE,
    assert_same,
    assert_served,
    build,
    generated,
    inputs,
)

T5_OF_4 = "T5 takes the way of Transformers 4"


def test_every_family_is_tried() -> None:
    tried = {class_name for class_name, _ in MODELS.values()}
    assert tried == {class_name for _, class_name in FAMILIES}


@pytest.mark.parametrize(
    ("name", "plan", "dtype"),
    crossed([*MODELS, *COMPOSITES], PLANS, [torch.float32, torch.float64]),
)
def test_every_family_generates_what_it_did(name, plan, dtype) -> None:
    if "xglm" in name and dtype == torch.float64:
        pytest.skip("stock XGLM fails in float64: it makes its least score in float32")
    if IS_4 and "t5" in name:
        pytest.skip(T5_OF_4)
    if IS_4 and name == "gpt2, scaled by layers":
        pytest.skip("Transformers 4 scales in one implementation of attention only")
    if IS_4 and name == "whisper":
        pytest.skip("results with a cache take the way of Transformers 4")
    if name == "marian, two vocabularies" and IS_4:
        pytest.skip("stock beam search of Transformers 4 takes the size of the other vocabulary")
    model = build(name, dtype)
    arguments = inputs(model)
    for options in ({}, {"num_beams": 4, "num_return_sequences": 2}):
        expected = generated(model, arguments, **options)
        twin = el_attention.convert(copy.deepcopy(model), plan)
        found = generated(twin, arguments, **options)
        assert_served(twin)
        # The searches of Transformers see logits as float32; T5's norms take squares in float32.
        assert_same(expected, found, 1e-5 if dtype == torch.float32 or "t5" in name else 1e-6)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", TWO)
def test_either_kind_of_operators_serves(name, plan, operators) -> None:
    model = build(name, torch.float32)
    arguments = inputs(model)
    expected = generated(model, arguments, num_beams=3)
    found = generated(el_attention.convert(model, plan), arguments, num_beams=3)
    assert_served(model)
    assert_same(expected, found, 1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", [*TWO, "m2m_100", "t5"])
def test_every_search_finds_what_it_did(name, options) -> None:
    if IS_4 and name == "t5":
        pytest.skip(T5_OF_4)
    if IS_4 and name == "m2m_100" and "do_sample" in OPTIONS[options]:
        pytest.skip("the forward of M2M100 in Transformers 4 draws random numbers")
    model = build(name)
    arguments = inputs(model)
    expected = generated(model, arguments, **OPTIONS[options])
    found = generated(el_attention.convert(model), arguments, **OPTIONS[options])
    assert_served(model)
    assert_same(expected, found, 1e-5 if name == "t5" else 1e-6)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", ["bart", "m2m_100", "marian", "t5", "umt5"])
def test_prompts_of_several_tokens(name, num_beams) -> None:
    if IS_4 and "t5" in name:
        pytest.skip(T5_OF_4)
    model = build(name)
    # The padding is a token like others, but that it has no position in M2M100.
    prompt = torch.tensor([[2, 5, 6, 1, 7], [2, 1, 1, 8, 9], [2, 4, 4, 4, 4]])
    arguments = {**inputs(model), "decoder_input_ids": prompt}
    expected = generated(model, arguments, num_beams=num_beams)
    found = generated(el_attention.convert(model), arguments, num_beams=num_beams)
    assert_served(model)
    assert_same(expected, found, 1e-5 if "t5" in name else 1e-6)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "opt", "xglm", "bart alone"])
def test_prompts_may_be_padded_on_the_right_and_in_between(name, num_beams, plan) -> None:
    model = build(name, torch.float32)
    # The last prompt is one token, behind padding: it has to be taken token by token.
    masks = [[[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]]]
    masks.append([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    tokens = torch.randint(4, 19, (3, 5), generator=torch.manual_seed(3))
    el_attention.convert(twin := copy.deepcopy(model), plan)
    for mask in map(torch.tensor, masks):
        arguments = {"input_ids": tokens.masked_fill(mask == 0, 1), "attention_mask": mask}
        expected = generated(model, arguments, num_beams=num_beams)
        assert_same(expected, generated(twin, arguments, num_beams=num_beams), 1e-5)
        sequences = twin.generate(**arguments, num_beams=num_beams, max_length=24)
        assert torch.equal(expected.sequences, sequences)
    assert_served(twin)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    "name", ["bart", "m2m_100", "t5", "bert to gpt2", "vit to trocr, projected"]
)
def test_prompts_of_decoders_may_be_padded(name, num_beams) -> None:
    if IS_4 and "t5" in name:
        pytest.skip(T5_OF_4)
    model = build(name, torch.float32)
    prompt = torch.tensor([[2, 5, 6, 9, 7], [1, 1, 2, 8, 9], [1, 2, 4, 4, 4]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    arguments = {**inputs(model), "decoder_input_ids": prompt, "decoder_attention_mask": mask}
    expected = generated(model, arguments, num_beams=num_beams)
    found = generated(el_attention.convert(model), arguments, num_beams=num_beams)
    assert_served(model)
    assert_same(expected, found, 1e-5)


@pytest.mark.parametrize("name", TWO)
def test_the_converted_model_is_what_it_was(name, tmp_path) -> None:
    model = build(name)
    arguments = inputs(model)
    twin = el_attention.convert(copy.deepcopy(model))
    assert el_attention.convert(twin) is twin and isinstance(twin, type(model))
    assert str(type(twin)) == str(type(model)) and type(twin).__name__ == type(model).__name__
    with torch.no_grad():
        assert torch.equal(model(**arguments).logits, twin(**arguments).logits)
    twin.save_pretrained(tmp_path)
    assert twin.state_dict().keys() == model.state_dict().keys()
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    expected = model.generate(**arguments, num_beams=3)
    for other in (loaded, twin, copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(expected, other.generate(**arguments, num_beams=3))
    assert twin.to(torch.float32).generate(**arguments).dtype == torch.int64


def test_two_threads_share_a_model() -> None:
    model = build("bart")
    batches = [inputs(model), inputs(model, (3, 6))]
    expected = [generated(model, batch, num_beams=3).sequences for batch in batches]
    el_attention.convert(model)
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            found = model.generate(**batches[index], num_beams=3, max_length=24)
            if not torch.equal(found, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(IS_4, reason="Transformers 4 encodes a batch as a whole")
@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True}])
@pytest.mark.parametrize("name", ["bart", "m2m_100", "pegasus_x", "t5", "whisper", "bert to bart"])
def test_sources_are_encoded_in_parts(name, options, monkeypatch) -> None:
    model = build(name)
    arguments = inputs(model, (7, 2, 5, 3))
    more = {"num_beams": 3, "max_length": 12, **options}
    expected = model.generate(**arguments, **more)
    el_attention.convert(model)
    monkeypatch.setattr("el_attention.transformers_plugin.encoder.PART_TOKENS", 14)
    sizes: list[int] = []
    encoder = type(model.get_encoder())
    forward = encoder.forward

    @functools.wraps(forward)
    def watched(self: Any, *args: Any, **given: Any) -> Any:
        output = forward(self, *args, **given)
        if not getattr(self, "is_decoder", False):  # of T5, of the same class
            sizes.append(len(output[0]))
        return output

    monkeypatch.setattr(encoder, "forward", watched)
    assert torch.equal(expected, model.generate(**arguments, **more))
    if name == "bert to bart":
        assert sizes == [4]
    elif options:
        assert sizes[-1] == 4
    else:
        assert sizes == ([1] * 4 if name == "whisper" else [2, 2])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", TWO)
def test_states_are_kept_once_per_sentence_and_never_move(name, plan, monkeypatch) -> None:
    model = el_attention.convert(build(name), plan)
    seen: list[list[int]] = []
    reorder = DecodingCache.reorder_cache

    def watched(self: DecodingCache, order: Tensor) -> None:
        decoding = self.decoding
        assert isinstance(decoding, Decoding)
        source = decoding.states.source
        assert source is None or source.states.size(1) == 3
        before = [tensor.data_ptr() for tensor in decoding.states.tensors()]
        reorder(self, order)
        assert [tensor.data_ptr() for tensor in decoding.states.tensors()] == before
        seen.append(order.tolist())

    monkeypatch.setattr(DecodingCache, "reorder_cache", watched)
    model.generate(**inputs(model), num_beams=4, max_length=24)
    assert len(seen) > 8 and any(order != sorted(order) for order in seen)


UNSERVED: dict[str, tuple[dict[str, Any], str]] = {
    "attentions": ({"output_attentions": True}, "output_attentions was asked for"),
    "hidden states": ({"output_hidden_states": True}, "output_hidden_states was asked for"),
    "no cache": ({"use_cache": False}, "use_cache is off"),
    "static cache": ({"cache_implementation": "static"}, "cache_implementation was asked for"),
    "too long": ({"max_length": 45}, "sequences of 45 tokens may be longer than its 40 positions"),
}


@pytest.mark.parametrize("case", UNSERVED)
@pytest.mark.parametrize("name", TWO)
def test_what_is_not_served_is_done_by_transformers(name, case, caplog) -> None:
    options, reason = UNSERVED[case]
    if case == "too long":
        options = {**options, "min_length": 3, "max_time": 1e-9}
    model = build(name)
    arguments = inputs(model)
    expected = model.generate(**arguments, **{"max_length": 20, "num_beams": 3, **options})
    el_attention.convert(model)
    with caplog.at_level(logging.INFO, logger="el_attention"):
        for _ in range(2):
            found = model.generate(**arguments, **{"max_length": 20, "num_beams": 3, **options})
            assert torch.equal(expected, found)
    lines = [record.getMessage() for record in caplog.records if "el_attention" in record.name]
    assert len(lines) == 1 and lines[0].endswith(f"because {reason}")


def hook(model: Any) -> None:
    layers = model.model.decoder.layers
    layers[0].fc1.register_forward_hook(lambda module, args, output: output + 0.5)


def other_class(model: Any) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model.model.decoder.layers[1].self_attn.k_proj.__class__ = Doubled


def mixed(model: Any) -> None:
    bias = model.final_logits_bias
    model.final_logits_bias = nn.Buffer(bias.float())


def own_forward(model: Any) -> None:
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def in_training(model: Any) -> None:
    model.train()
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0


def layer_in_training(model: Any) -> None:
    model.model.decoder.layers[1].dropout = 0.5
    model.model.decoder.layers[1].train()


def own_attention(model: Any) -> None:
    def sharpened(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, 2 * query, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("sharpened", sharpened)
    ALL_MASK_ATTENTION_FUNCTIONS.register("sharpened", sdpa_mask)
    model.set_attn_implementation("sharpened")


def first_layer_left_out(model: Any) -> None:
    del model.model.decoder.layers[0]


CHANGES = {
    "hook": (hook, "hooks"),
    "another class": (other_class, "is a Doubled, expected a Linear"),
    "mixed numbers": (mixed, "final_logits_bias is torch.float32"),
    "a forward of its own": (own_forward, "it has a forward of its own, or hooks"),
    "training": (in_training, "it is in training"),
    "a layer in training": (layer_in_training, "model.decoder.layers.1 is in training"),
    "an attention of the user": (own_attention, f"the attention sharpened is of {__name__}"),
    "a layer less": (first_layer_left_out, "its layers keep their states in the places [1]"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_models_that_are_not_what_they_seem_are_run_by_transformers(change, caplog) -> None:
    alter, reason = CHANGES[change]
    stock, model = build("bart"), el_attention.convert(build("bart"))
    alter(stock)
    alter(model)
    arguments, found = inputs(stock), []
    with caplog.at_level(logging.INFO, logger="el_attention"):
        for either in (stock, model):
            torch.manual_seed(2)
            found.append(either.generate(**arguments, num_beams=3))
    assert torch.equal(*found)
    assert reason in caplog.text


@pytest.mark.parametrize("kind", [nn.Linear, nn.LayerNorm])
def test_a_forward_that_was_replaced_in_a_class_is_called(kind, monkeypatch) -> None:
    stock, model = build("bart"), el_attention.convert(build("bart"))
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 1.5 * forward(self, x))
    arguments = inputs(stock)
    assert_same(generated(stock, arguments), generated(model, arguments), 0)
    assert any("whose forward was replaced" in reason for reason in model.el_announced)


@pytest.mark.skipif(IS_4, reason=T5_OF_4)
@pytest.mark.parametrize("name", ["t5", "umt5"])
def test_layers_that_changed_places_attend_by_the_biases_that_transformers_gives_them(name) -> None:
    stock, model = build(name), el_attention.convert(build(name))
    for either in (stock, model):
        blocks = either.decoder.block
        blocks[0], blocks[1] = blocks[1], blocks[0]
    arguments = inputs(stock)
    assert_same(generated(stock, arguments), generated(model, arguments), 1e-6)
    assert_served(model)


@pytest.mark.skipif(IS_4, reason=T5_OF_4)
def test_t5_in_float16_is_run_by_transformers(tmp_path, caplog) -> None:
    """It clamps what overflows, and a loaded one keeps some weights in float32."""
    build("t5", torch.float32).save_pretrained(tmp_path)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    for model, reason in (
        (build("t5", torch.float16), "in float16 its layers clamp what overflows"),
        (loaded, "in float16 its layers clamp what overflows"),
    ):
        arguments = inputs(model)
        expected = model.generate(**arguments, num_beams=3, max_length=12)
        with caplog.at_level(logging.INFO, logger="el_attention"):
            found = el_attention.convert(model).generate(**arguments, num_beams=3, max_length=12)
        assert torch.equal(expected, found)
        assert caplog.text.count(reason) == 1
        caplog.clear()


def test_other_ways_of_generating_are_those_of_transformers(caplog) -> None:
    model = build("gpt2")
    single = {name: tensor[:1] for name, tensor in inputs(model).items()}
    empty = inputs(model)
    empty["attention_mask"][1] = 0
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (single, {"prompt_lookup_num_tokens": 2}, "assisted_generation"),
        (single, {"assistant_model": build("gpt2")}, "assisted_generation"),
        (empty, {"num_beams": 2}, "a prompt is all padding"),
        ({**single, CACHE: None}, {}, f"the model was given {CACHE}"),
    ]
    for arguments, options, reason in cases:
        results = []
        for one in (model, el_attention.convert(copy.deepcopy(model))):
            given = dict(arguments)
            if CACHE in given:
                given[CACHE] = transformers.DynamicCache(config=one.config)
            torch.manual_seed(0)
            with caplog.at_level(logging.INFO, logger="el_attention"):
                results.append(one.generate(**given, **options, max_length=20))
        assert torch.equal(*results)
        assert reason in caplog.text
        caplog.clear()


@pytest.mark.parametrize("mask", [[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]])
def test_windows_count_padding_within_prompts(mask) -> None:
    model = build("gpt_neo", torch.float32)
    tokens = torch.randint(4, 19, (2, 5), generator=torch.manual_seed(3))
    masks = torch.tensor([[1] * 5, mask])
    arguments = {"input_ids": tokens, "attention_mask": masks}
    expected = model.generate(**arguments, num_beams=2, max_length=15)
    assert torch.equal(
        expected, el_attention.convert(model).generate(**arguments, num_beams=2, max_length=15)
    )
    (reason,) = model.el_announced
    assert reason.startswith("a prompt has padding behind or within it")


@pytest.mark.skipif(not IS_4, reason="of Transformers 4")
@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("gpt2, scaled by layers", {}, "the scale of its attention depends on the implementation"),
        ("m2m_100", {"do_sample": True}, "its forward draws random numbers that it does not use"),
        ("whisper", {}, "its generate takes the cache of the result apart"),
        ("t5", {}, "this version of Transformers does not tell which outputs it scales"),
    ],
)
def test_what_transformers_4_does_otherwise(name, options, reason) -> None:
    model = build(name)
    arguments = inputs(model)
    expected = generated(model, arguments, **options)
    found = generated(el_attention.convert(model), arguments, **options)
    assert_same(expected, found, 0.0)
    assert model.el_announced == {reason}


def test_a_converted_model_may_assist() -> None:
    model = build("gpt2")
    single = {name: tensor[:1] for name, tensor in inputs(model).items()}
    expected = model.generate(**single, max_length=20)
    assistant = el_attention.convert(build("gpt2, scaled by layers"))
    found = model.generate(**single, max_length=20, assistant_model=assistant)
    assert torch.equal(expected, found)


def test_the_cache_of_a_run_refuses_another_use() -> None:
    model = el_attention.convert(build("gpt2"))
    cache = generated(model, inputs(model)).get(CACHE)
    with pytest.raises(TypeError, match="got that of a run of generate with EL-attention"):
        cache.crop(3)
    with pytest.raises(TypeError, match="give generate a DynamicCache"):
        cache.update(torch.zeros(1), torch.zeros(1), 0)


def test_what_cannot_be_converted_is_refused_or_left_alone(caplog) -> None:
    config = transformers.BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=8, n_layer=1, n_head=2)
    model = transformers.BloomForCausalLM(config)
    assert el_attention.convert(model) is model
    assert type(model) is transformers.BloomForCausalLM
    assert "queries, keys and values lie head by head in one" in caplog.text
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertConfig(**sizes, vocab_size=VOCAB_SIZE, intermediate_size=8)
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert)
    composite = transformers.EncoderDecoderModel(both)
    assert type(el_attention.convert(composite)) is transformers.EncoderDecoderModel
    assert "BertLMHeadModel is of no family that is served" in caplog.text
    with pytest.raises(ValueError, match=r"attention plan: expected one of .*got 'none'"):
        el_attention.convert(build("bart"), "none")
    with pytest.raises(TypeError, match="expected a model that generates, got BartConfig"):
        el_attention.convert(transformers.BartConfig())
