"""What cannot read shared states uses fairseq's attention, says so once, and stays exact."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.modules import MultiheadAttention
from fairseq.modules.sparse_multihead_attention import SparseMultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import el_attention
from crossed import crossed
from families import DEFAULT, FAMILIES, FEATURES, SYMBOLS, Feature, enliven, generate, model_of
from tiny import PLANS, TinyTask, assert_same, build, generator_of


class Doubled(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def doubled_keys(attention: MultiheadAttention) -> None:
    attention.k_proj.__class__ = Doubled


def hooked_values(attention: MultiheadAttention) -> None:
    attention.v_proj.register_forward_hook(lambda module, args, output: 1.5 * output)


def prehooked_keys(attention: MultiheadAttention) -> None:
    attention.k_proj.register_forward_pre_hook(lambda module, args: (0.5 * args[0],))


def halved(self: nn.Linear, x: Tensor) -> Tensor:
    return 0.5 * nn.Linear.forward(self, x)


def rebound_values(attention: MultiheadAttention) -> None:
    attention.v_proj.forward = halved.__get__(attention.v_proj)


def normalized_keys(attention: MultiheadAttention) -> None:
    nn.utils.parametrizations.weight_norm(attention.k_proj)
    attention.k_proj.parametrizations.weight.original0.data *= 1.5


class OtherAttention(MultiheadAttention):
    """A kind of attention of somebody else."""

    def apply_sparse_mask(self, attn_weights: Tensor, *sizes: int) -> Tensor:
        return 0.3 * attn_weights


def other_class(attention: MultiheadAttention) -> None:
    attention.__class__ = OtherAttention


def damped_weights(attention: MultiheadAttention) -> None:
    attention.apply_sparse_mask = lambda weights, *sizes: 0.3 * weights


# How to make a module that cannot be supported, and what the warning must say.
UNSUPPORTED: dict[str, tuple[Callable[[MultiheadAttention], None], str]] = {
    "subclass of Linear": (doubled_keys, "k_proj is a Doubled, expected a Linear"),
    "forward hook": (hooked_values, "v_proj has hooks"),
    "forward pre-hook": (prehooked_keys, "k_proj has hooks"),
    "forward of its own": (rebound_values, "v_proj has"),
    "method of its own": (damped_weights, "it has a apply_sparse_mask of its own"),
    "parametrized": (normalized_keys, "k_proj is a Parametrized"),
    "subclass of attention": (other_class, "it is a OtherAttention"),
}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("el_attention")
    ]


def with_unsupported(family: str, name: str, attention: str, layer: int = 1) -> BaseFairseqModel:
    model = copy.deepcopy(model_of(family))
    UNSUPPORTED[name][0](getattr(model.decoder.layers[layer], attention))
    return model


@pytest.mark.parametrize(
    ("name", "family", "attention"),
    crossed(
        UNSUPPORTED,
        [
            ("transformer", "self_attn"),
            ("bart", "encoder_attn"),
            ("bart", "self_attn"),
            ("lm",) * 2,
        ],
    ),
)
def test_unsupported_module_is_named_once_and_exact(family, attention, name, caplog) -> None:
    attention = "self_attn" if family == "lm" else attention
    model = with_unsupported(family, name, attention)
    options = DEFAULT.generation_options()
    stock = generator_of([model], SYMBOLS, options)
    ours = el_attention.convert(generator_of([model], SYMBOLS, options), "expanded-query")
    arguments = DEFAULT.generation_arguments(family)
    unchanged = generate([model_of(family)], family)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            expected = stock.generate(None, DEFAULT.sample(), **arguments)
            assert_same(expected, ours.generate(None, DEFAULT.sample(), **arguments))
    assert expected[0][0]["score"] != unchanged[0][0]["score"], "the change must matter"
    (warning,) = warnings(caplog)
    assert f"decoder.layers.1.{attention}:" in warning and UNSUPPORTED[name][1] in warning


@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_hooks_on_all_modules_reach_what_attention_would_read_directly(family) -> None:
    def louder(module: nn.Module, args: Any, output: Any) -> Any:
        return 1.1 * output if type(module) is nn.Linear else None

    unchanged = generate([model_of(family)], family)
    hook = register_module_forward_hook(louder)
    try:
        stock = generate([model_of(family)], family)
        assert_same(stock, generate([model_of(family)], family, plan="expanded-query"))
    finally:
        hook.remove()
    assert stock[0][0]["score"] != unchanged[0][0]["score"]


class Perceptron(TransformerDecoderLayerBase):
    """A layer without attention and without the parts of fairseq's."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        return x + self.mixes(x), None, None


def without_parts(model: BaseFairseqModel) -> None:
    layer = model.decoder.layers[0]
    layer.__class__ = Perceptron
    layer.mixes = nn.Sequential(layer.fc1, nn.Tanh(), layer.fc2)
    del layer.fc1, layer.fc2, layer.self_attn
    layer.encoder_attn = None


def wrapped_decoder(model: BaseFairseqModel) -> None:
    for layer in model.decoder.layers:
        layer.fc1 = nn.Sequential(layer.fc1)


def wrapped_encoder(model: BaseFairseqModel) -> None:
    for layer in model.encoder.layers:
        layer.fc1 = nn.Sequential(layer.fc1)


@pytest.mark.parametrize("change", [without_parts, wrapped_decoder, wrapped_encoder])
def test_layers_with_other_parts_than_fairseqs_are_converted(change) -> None:
    model = copy.deepcopy(model_of("bart"))
    change(model)
    assert_same(generate([model], "bart"), generate([model], "bart", plan="auto"))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("feature", ["beam 1", "beam 5", "sampling", "diverse beams"])
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_all_modules_unsupported(family, feature, plan, caplog) -> None:
    model = copy.deepcopy(model_of(family))
    for layer in model.decoder.layers:
        for attention in (layer.self_attn, layer.encoder_attn):
            if attention is not None:
                hooked_values(attention)
    stock = generate([model], family, FEATURES[feature])
    with caplog.at_level(logging.WARNING):
        assert_same(stock, generate([model], family, FEATURES[feature], plan))
    assert len(warnings(caplog)) == len(set(warnings(caplog))) == (3 if family == "lm" else 6)


def test_sparse_attention_is_left_to_fairseq_which_cannot_decode_with_it(caplog) -> None:
    model = copy.deepcopy(model_of("lm"))
    attention = model.decoder.layers[0].self_attn
    sparse = SparseMultiheadAttention(
        attention.embed_dim, attention.num_heads, self_attention=True, stride=4, expressivity=2
    )
    model.decoder.layers[0].self_attn = sparse.eval()
    for plan in (None, "expanded-query"):
        with caplog.at_level(logging.WARNING), pytest.raises(AssertionError):
            generate([model], "lm", plan=plan)
    (warning,) = warnings(caplog)
    assert "decoder.layers.0.self_attn" in warning and "SparseMultiheadAttention" in warning


def test_ensemble_of_language_models_of_which_one_falls_back() -> None:
    models = [model_of("lm"), with_unsupported("lm", "forward hook", "self_attn")]
    assert_same(generate(models, "lm"), generate(models, "lm", plan="expanded-query"))


@pytest.mark.parametrize("family", FAMILIES)
def test_supported_models_give_no_warning(family, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        generate([model_of(family)], family, plan="auto")
    assert warnings(caplog) == []


def test_hooks_on_other_projections_still_act(caplog: pytest.LogCaptureFixture) -> None:
    model = copy.deepcopy(model_of("bart"))
    attention = model.decoder.layers[0].encoder_attn
    for module in (attention, attention.q_proj, attention.out_proj, model.decoder.layers[1]):
        module.register_forward_hook(
            lambda module, args, output: (
                (0.7 * output[0], *output[1:]) if isinstance(output, tuple) else 0.7 * output
            )
        )
    stock = generate([model], "bart")
    with caplog.at_level(logging.WARNING):
        assert_same(stock, generate([model], "bart", plan="expanded-query"))
    assert warnings(caplog) == []


class AdaptedLayer(TransformerDecoderLayerBase):
    """A layer that changes the encoder output before it attends to it."""

    def forward(self, x: Tensor, encoder_out: Tensor, *args: object, **kwargs: object) -> object:
        return super().forward(x, encoder_out.roll(1, -1), *args, **kwargs)


class BiasedLayer(TransformerDecoderLayerBase):
    """A layer that asks for an additive bias on the scores of its self-attention."""

    def forward(self, *args: object, self_attn_mask: object = None, **kwargs: object) -> object:
        return super().forward(*args, self_attn_mask=torch.ones(1, 1), **kwargs)


def with_layer(kind: type[TransformerDecoderLayerBase]) -> BaseFairseqModel:
    model = copy.deepcopy(model_of("bart"))
    model.decoder.layers[1].__class__ = kind
    return model


@pytest.mark.parametrize("plan", PLANS)
def test_layer_that_changes_the_encoder_output(plan) -> None:
    stock = generate([with_layer(AdaptedLayer)], "bart")
    assert stock[0][0]["score"] != generate([model_of("bart")], "bart")[0][0]["score"]
    assert_same(stock, generate([with_layer(AdaptedLayer)], "bart", plan=plan))


def test_layer_that_masks_scores_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder.layers.1.self_attn: attn_mask"):
        generate([with_layer(BiasedLayer)], "bart", plan="expanded-query")


class Wrapper(nn.Module):
    """Stands for a decoder wrapped by a library for parallel training."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *args: object, **kwargs: object) -> object:
        kwargs.pop("incremental_state", None)
        return self.wrapped(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)


def joined() -> BaseFairseqModel:
    return enliven(build("transformer", SYMBOLS, 3, cross_self_attention=True), 3)


def recurrent() -> BaseFairseqModel:
    return build("lstm", SYMBOLS, 0, decoder_layers=2, criterion="cross_entropy")


def convolutional() -> BaseFairseqModel:
    return build(
        "lightconv",
        SYMBOLS,
        0,
        encoder_kernel_size_list=[3, 3],
        decoder_kernel_size_list=[3, 3, 3],
        encoder_conv_type="lightweight",
        decoder_conv_type="lightweight",
        weight_softmax=True,
    )


def wrapped() -> BaseFairseqModel:
    model = copy.deepcopy(model_of("transformer"))
    model.decoder = Wrapper(model.decoder)
    return model


UNCONVERTED: dict[str, tuple[Callable[[], BaseFairseqModel], str]] = {
    "joined attention": (joined, "--cross-self-attention"),
    "recurrent": (recurrent, "its decoder is a LSTMDecoder"),
    "convolutional": (convolutional, "its decoder is a LightConvDecoder"),
    "wrapped": (wrapped, "its decoder is a Wrapper"),
}


@pytest.mark.parametrize("name", UNCONVERTED)
def test_model_that_is_left_as_it_is(name, caplog) -> None:
    make, reason = UNCONVERTED[name]
    model, feature = make(), Feature(lengths=(9, 7, 5, 2))
    stock = generate([model], "transformer", feature)
    with caplog.at_level(logging.WARNING):
        assert_same(stock, generate([model], "transformer", feature, "expanded-query"))
    (warning,) = warnings(caplog)
    assert reason in warning and type(model).__name__ in warning


@pytest.mark.parametrize("target", [None, "model.pt", nn.Linear(2, 2), [], SYMBOLS])
def test_convert_refuses_what_it_does_not_know(target) -> None:
    with pytest.raises(TypeError, match=f"got {type(target).__name__}"):
        el_attention.convert(target)


def test_convert_refuses_an_unknown_plan() -> None:
    with pytest.raises(ValueError, match="fastest"):
        el_attention.convert(copy.deepcopy(model_of("lm")), "fastest")


def test_a_scorer_is_no_generator() -> None:
    scorer = TinyTask(SYMBOLS).build_generator([], Namespace(score_reference=True))
    with pytest.raises(TypeError, match="SequenceScorer"):
        el_attention.convert(scorer)


def test_integer_states_are_refused_by_dtype() -> None:
    model = el_attention.convert(copy.deepcopy(model_of("lm")))
    reason = model.decoder.layers[0].self_attn.unsupported(torch.complex64)
    assert reason is not None and "complex64" in reason
