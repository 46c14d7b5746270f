"""A decoder that a spec describes takes steps past its modules, with the bits of its modules."""

from __future__ import annotations

import copy
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoder
from fairseq.modules import Fp32LayerNorm, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor, nn
from torch.nn import functional

import el_attention
from crossed import OPERATORS, crossed
from el_attention.decoder import Decoding, specs
from el_attention.fairseq_plugin.describe import unsupported
from families import DEFAULT, FEATURES, SYMBOLS, generate, model_of
from one_by_one import take_operators_one_by_one
from tiny import PLANS, Hypotheses, assert_same, generator_of

FAMILIES = ("transformer", "pre-norm", "bart", "lm")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the steps that decoders take past their modules."""
    seen: Counter[str] = Counter()
    step = Decoding.step

    def counted(*args: Any) -> Any:
        seen["past modules"] += 1
        return step(*args)

    monkeypatch.setattr(Decoding, "step", counted)
    return seen


@pytest.fixture
def torch_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets steps multiply as modules do, so that not even a rounding may differ."""
    monkeypatch.setattr(
        specs, "linear", lambda x, weight, bias, narrow: functional.linear(x, weight, bias)
    )
    take_operators_one_by_one(monkeypatch)


def changed(family: str, change: Callable[[Any], object], layer: int = 1) -> BaseFairseqModel:
    model = copy.deepcopy(model_of(family))
    change(model.decoder.layers[layer])
    return model


def watched(model: BaseFairseqModel) -> BaseFairseqModel:
    """A copy whose layers all have a hook that does nothing."""
    model = copy.deepcopy(model)
    for layer in model.decoder.layers:
        layer.fc1.register_forward_hook(lambda *_: None)
    return model


def assert_equal(ours: Hypotheses, others: Hypotheses) -> None:
    for sentence, other_sentence in zip(ours, others, strict=True):
        for one, other in zip(sentence, other_sentence, strict=True):
            for name in ("tokens", "score", "positional_scores"):
                assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])), name
            assert (one["attention"] is None) == (other["attention"] is None)
            if one["attention"] is not None:
                assert torch.equal(one["attention"], other["attention"])


@pytest.mark.parametrize(
    ("family", "plan", "activation", "feature", "operators"),
    crossed(FAMILIES, PLANS, ["relu", "gelu"], ["beam 5", "sampling"], OPERATORS),
    indirect=["operators"],
)
def test_steps_past_modules_have_the_bits_of_fairseqs(
    family, plan, activation, feature, operators, steps, torch_product
) -> None:
    model = model_of(family, None, activation_fn=activation)
    asked = FEATURES[feature]
    if family == "lm":  # only a decoder that a spec describes takes a prompt at once
        asked = replace(asked, arguments={})
    ours = generate([model], family, asked, plan)
    assert steps["past modules"] > 0
    steps.clear()
    assert_equal(ours, generate([watched(model)], family, asked, plan))
    assert steps["past modules"] == 0


@pytest.mark.parametrize("options", [{"beam": 4}, {"beam": 4, "print_alignment": "soft"}])
def test_attention_weights_have_the_bits_of_fairseqs(options, steps, torch_product) -> None:
    results, taken = [], []
    for model in (model_of("transformer"), watched(model_of("transformer"))):
        generator = generator_of([model], SYMBOLS, {**DEFAULT.generation_options(), **options})
        results.append(el_attention.convert(generator).generate(None, DEFAULT.sample()))
        taken.append(steps["past modules"])
    assert taken[0] > 0 and taken[1] == taken[0], "the second model takes none"
    assert_equal(*results)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
@pytest.mark.parametrize("plan", PLANS)
def test_layers_with_sinks(plan, options, steps, torch_product) -> None:
    model = copy.deepcopy(model_of("transformer"))
    attention = model.decoder.layers[1].self_attn
    if "add_bias_kv" in options:
        attention.bias_k = nn.Parameter(torch.randn(1, 1, attention.embed_dim))
        attention.bias_v = nn.Parameter(torch.randn(1, 1, attention.embed_dim))
    else:
        attention.add_zero_attn = True
    ours = generate([model], "transformer", plan=plan)
    assert steps["past modules"] > 0
    assert_equal(ours, generate([watched(model)], "transformer", plan=plan))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class HalvedResiduals(TransformerDecoderLayerBase):
    def residual_connection(self, x: Tensor, residual: Tensor) -> Tensor:
        return 0.5 * residual + x


class OtherForward(TransformerDecoderLayerBase):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x, *rest = super().forward(*args, **kwargs)
        return (0.5 * x, *rest)


class OtherAttention(MultiheadAttention):
    """May compute something else."""


def scaled(module: Any, args: Any, output: Any) -> Any:
    return (0.7 * output[0], *output[1:]) if isinstance(output, tuple) else 0.7 * output


def hooked(*names: str) -> Callable[[Any], None]:
    def change(layer: Any) -> None:
        for name in names:
            layer.get_submodule(name).register_forward_hook(scaled)

    return change


def prehooked_norm(layer: Any) -> None:
    layer.final_layer_norm.register_forward_pre_hook(lambda module, args: (args[0] ** 2,))


def halved(self: nn.Linear, x: Tensor) -> Tensor:
    return 0.5 * nn.Linear.forward(self, x)


def rebound(layer: Any) -> None:
    layer.fc2.forward = halved.__get__(layer.fc2)


def other_projection(layer: Any) -> None:
    layer.encoder_attn.q_proj.__class__ = Doubled


def adapted(layer: Any) -> None:
    layer.fc1 = nn.Sequential(layer.fc1, nn.Tanh())


def other_residuals(layer: Any) -> None:
    layer.__class__ = HalvedResiduals


def own_residuals(layer: Any) -> None:
    layer.residual_connection = lambda x, residual: 0.5 * residual + x


def scaled_heads(layer: Any) -> None:
    layer.c_attn = nn.Parameter(torch.linspace(0.5, 1.5, layer.nh))


def scaled_residuals(layer: Any) -> None:
    layer.w_resid = nn.Parameter(torch.linspace(0.5, 1.5, layer.embed_dim))


def normalized_attention(layer: Any) -> None:
    layer.attn_ln = nn.LayerNorm(layer.embed_dim)


def normalized_hidden(layer: Any) -> None:
    layer.ffn_layernorm = nn.LayerNorm(layer.fc1.out_features)


def other_norm(layer: Any) -> None:
    layer.final_layer_norm.__class__ = Fp32LayerNorm
    layer.final_layer_norm.eps = 0.3


def dropping(layer: Any) -> None:
    layer.activation_dropout_module.p = 0.3
    layer.activation_dropout_module.apply_during_inference = True


def other_attention(layer: Any) -> None:
    layer.self_attn.__class__ = OtherAttention
    layer.self_attn.scaling *= 2


def undecided_attention(layer: Any) -> None:
    layer.self_attn.self_attention = False
    layer.self_attn.scaling *= 2


class Louder(Tensor):
    """Weights of a linear layer that are more than the numbers in their memory."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            x, weight, bias = args
            with torch._C.DisableTorchFunctionSubclass():
                return func(x, 1.5 * weight.as_subclass(Tensor), bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    def new_empty(self, *args: Any, **kwargs: Any) -> Any:
        return super().new_empty(*args, **kwargs).as_subclass(Louder)


def other_weights(layer: Any) -> None:
    layer.fc1.weight = nn.Parameter(layer.fc1.weight.detach().as_subclass(Louder))


# What changes a layer, and what is logged.
OBSTACLES: dict[str, tuple[Callable[[Any], None], str]] = {
    "hook on a linear layer": (hooked("fc1"), "fc1 has hooks"),
    "hook on an attention": (hooked("self_attn"), "self_attn has hooks"),
    "hook on a query": (hooked("encoder_attn.q_proj"), "encoder_attn.q_proj has hooks"),
    "hook on an output": (hooked("self_attn.out_proj"), "self_attn.out_proj has hooks"),
    "hook on a dropout": (hooked("dropout_module"), "dropout_module has hooks"),
    "pre-hook on a norm": (prehooked_norm, "final_layer_norm has hooks"),
    "forward of its own": (rebound, "fc2 has a forward of its own"),
    "weights of another kind": (other_weights, "fc1 has a weight that is a Louder"),
    "other linear layer": (other_projection, "encoder_attn.q_proj is a Doubled"),
    "adapter": (adapted, "fc1 is a Sequential"),
    "other residuals": (other_residuals, "it adds residuals in its own way"),
    "residuals of its own": (own_residuals, "it adds residuals in its own way"),
    "scaled heads": (scaled_heads, "it has a c_attn"),
    "scaled residuals": (scaled_residuals, "it has a w_resid"),
    "norm after attention": (normalized_attention, "attn_ln is not fairseq's"),
    "norm within": (normalized_hidden, "ffn_layernorm is not fairseq's"),
    "other norm": (other_norm, "final_layer_norm is a Fp32LayerNorm"),
    "dropout": (dropping, "activation_dropout_module acts"),
    "other attention": (other_attention, "self_attn is a ELOtherAttention"),
    "attention of neither kind": (
        undecided_attention,
        "self_attn: it is neither self-attention nor encoder-decoder attention",
    ),
}


@pytest.mark.parametrize("name", crossed(OBSTACLES))
def test_a_reason_is_named_once_and_the_result_is_fairseqs(name, steps, caplog) -> None:
    change, reason = OBSTACLES[name]
    model = changed("bart", change)
    stock = generate([model], "bart")
    assert stock[0][0]["score"] != generate([model_of("bart")], "bart")[0][0]["score"]
    steps.clear()
    with caplog.at_level(logging.INFO):
        assert_same(stock, generate([model], "bart", plan="auto"))
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("decoder:")]
    assert len(lines) == 1 and f"layer 1: {reason}" in lines[0]
    assert steps["past modules"] == 0


def prepared(model: Any) -> None:
    """Makes embeddings and norms matter that a random model leaves at their defaults."""
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.linspace(-1, 1, len(parameter))


def hooked_part(name: str) -> Callable[[Any], None]:
    return lambda decoder: decoder.get_submodule(name).register_forward_hook(scaled)


def renormalized(decoder: Any) -> None:
    decoder.embed_tokens.max_norm = 0.5


def other_features(decoder: Any) -> None:
    decoder.__class__ = OtherFeatures


def dropping_embeddings(decoder: Any) -> None:
    decoder.dropout_module.p = 0.3
    decoder.dropout_module.apply_during_inference = True


class Turned(nn.ModuleList):
    def __iter__(self) -> Any:
        return reversed([*super().__iter__()])


def turned(decoder: Any) -> None:
    decoder.layers = Turned([*decoder.layers])


DECODER_OBSTACLES: dict[str, tuple[Callable[[Any], None], str]] = {
    "hook on the embeddings": (hooked_part("embed_tokens"), "embed_tokens has hooks"),
    "hook on the positions": (hooked_part("embed_positions"), "embed_positions has hooks"),
    "hook on a norm": (hooked_part("layernorm_embedding"), "layernorm_embedding has hooks"),
    "layers in an order of their own": (turned, "its layers are a Turned"),
    "largest norm": (renormalized, "embed_tokens has a largest norm"),
    "features of its own": (other_features, "OtherFeatures computes features in its own way"),
    "dropout": (dropping_embeddings, "dropout_module acts"),
}


@pytest.mark.parametrize("name", DECODER_OBSTACLES)
def test_a_reason_around_the_layers_is_named(name, steps, caplog) -> None:
    change, reason = DECODER_OBSTACLES[name]
    model = copy.deepcopy(model_of("bart"))
    change(model.decoder)
    stock = generate([model], "bart")
    assert stock[0][0]["score"] != generate([model_of("bart")], "bart")[0][0]["score"]
    steps.clear()
    with caplog.at_level(logging.INFO):
        assert_same(stock, generate([model], "bart", plan="auto"))
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("decoder:")]
    assert len(lines) == 1 and reason in lines[0]
    assert steps["past modules"] == 0


def test_a_layer_with_another_forward_stays_what_it_is_and_is_named(steps, caplog) -> None:
    model = changed("bart", lambda layer: setattr(layer, "__class__", OtherForward))
    stock = generate([model], "bart")
    assert stock[0][0]["score"] != generate([model_of("bart")], "bart")[0][0]["score"]
    with caplog.at_level(logging.INFO):
        assert_same(stock, generate([model], "bart", plan="auto"))
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("decoder:")]
    reason = "layer 1: OtherForward has another forward"
    assert lines == [f"decoder: fairseq's own modules, because {reason}"]
    kinds = [type(layer) for layer in el_attention.convert(model).decoder.layers]
    assert kinds == [TransformerDecoderLayerBase, OtherForward, TransformerDecoderLayerBase]


# What surrounds the layers, or is said of all of them, and no reason against a spec.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "learned positions": ("transformer", {"decoder_learned_pos": True}),
    "no positions": ("transformer", {"no_token_positional_embeddings": True}),
    "norm of embeddings": ("transformer", {"layernorm_embedding": True}),
    "unscaled embeddings": ("transformer", {"no_scale_embedding": True}),
    "no last norm": ("pre-norm", {"no_decoder_final_norm": True}),
    "other width outside": ("lm", {"decoder_input_dim": 16, "decoder_output_dim": 16}),
    "tied output": ("transformer", {"share_decoder_input_output_embed": True}),
    "dropped layers": ("transformer", {"decoder_layerdrop": 0.5}),
    "quantization noise": ("transformer", {"quant_noise_pq": 0.1, "quant_noise_pq_block_size": 4}),
    "adaptive softmax": ("lm", {"adaptive_softmax_cutoff": "10,20"}),
}


@pytest.mark.parametrize("feature", ["beam 5", "sampling"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_decoders_that_a_spec_describes(name, feature, steps) -> None:
    family, options = SHAPES[name]
    model = copy.deepcopy(model_of(family, None, **options))
    prepared(model)
    stock = generate([model], family, FEATURES[feature])
    steps.clear()
    assert_same(stock, generate([model], family, FEATURES[feature], "auto"))
    assert steps["past modules"] > 0


def test_sinusoidal_positions_beyond_the_table(steps) -> None:
    stock, ours = (copy.deepcopy(model_of("transformer")).decoder for _ in range(2))
    assert len(stock.embed_positions.weights) < 1100
    model = copy.deepcopy(model_of("transformer"))
    model.decoder.max_target_positions = 3000
    converted = el_attention.convert(copy.deepcopy(model))
    source = DEFAULT.sample()["net_input"]
    tokens = torch.full((len(source["src_tokens"]), 1100), SYMBOLS.eos())
    with torch.no_grad():
        encoded = [m.encoder(**source) for m in (model, converted)]
        expected, _ = model.decoder(tokens[:, :1], encoded[0], incremental_state={})
        found, _ = converted.decoder(tokens[:, :1], encoded[1], incremental_state={})
        torch.testing.assert_close(found, expected)
        # Only the position of the token matters to the first step of a generation.
        expected, _ = model.decoder(tokens, encoded[0], incremental_state={})
        found, _ = converted.decoder(tokens, encoded[1], incremental_state={})
        torch.testing.assert_close(found, expected)
    del stock, ours


def test_a_forward_of_the_layers_own_is_called(steps) -> None:
    def replace(layer: Any) -> None:
        forward = type(layer).forward

        def halving(*args: Any, **kwargs: Any) -> Any:
            x, *rest = forward(layer, *args, **kwargs)
            return (0.5 * x, *rest)

        layer.forward = halving

    ours, stock = (changed("lm", lambda layer: None) for _ in range(2))
    replace(stock.decoder.layers[1])
    el_attention.convert(ours)
    replace(ours.decoder.layers[1])
    tokens = torch.full((3, 1), SYMBOLS.eos())
    with torch.no_grad():
        expected, _ = stock.decoder(tokens)
        torch.testing.assert_close(ours.decoder(tokens, incremental_state={})[0], expected)
    assert steps["past modules"] == 0


def test_training_and_tracing_take_fairseqs_modules() -> None:
    decoder = el_attention.convert(changed("lm", lambda layer: None)).decoder
    assert unsupported(decoder) is None
    decoder.layers[0].train()
    assert "training" in str(unsupported(decoder))
    decoder.train()
    assert unsupported(decoder) == "it is in training"
    decoder.eval().layers[0].prepare_for_onnx_export_()
    assert "traced" in str(unsupported(decoder))


@pytest.mark.parametrize("kind", ["forward", "pre-forward"])
def test_hooks_on_all_modules_are_called(kind, steps) -> None:
    stock_calls: list[type] = []
    calls: list[type] = []
    hooks = nn.modules.module
    register = (
        hooks.register_module_forward_hook
        if kind == "forward"
        else hooks.register_module_forward_pre_hook
    )
    for plan, seen in ((None, stock_calls), ("auto", calls)):
        handle = register(lambda module, *_, seen=seen: seen.append(type(module)))
        try:
            generate([model_of("transformer")], "transformer", plan=plan)
        finally:
            handle.remove()
    assert steps["past modules"] == 0
    assert sum(t is nn.LayerNorm for t in calls) == sum(t is nn.LayerNorm for t in stock_calls) > 0


@pytest.mark.parametrize(
    "name",
    "self_attn encoder_attn self_attn.q_proj encoder_attn.out_proj fc1 fc2 dropout_module "
    "activation_dropout_module self_attn_layer_norm encoder_attn_layer_norm final_layer_norm "
    "encoder_attn.dropout_module".split(),
)
def test_a_hook_is_called_as_often_as_in_stock_fairseq(name) -> None:
    calls: Counter[str] = Counter()

    def register(layer: Any) -> None:
        layer.get_submodule(name).register_forward_hook(lambda *_: calls.update([name]))

    model = changed("transformer", register)
    stock = generate([model], "transformer")
    expected = calls[name]
    calls.clear()
    assert_same(stock, generate([model], "transformer", plan="auto"))
    # Shared states leave out the dropout of weights that is none, as ever.
    assert calls[name] == expected or name == "encoder_attn.dropout_module"


def added(layer: Any) -> None:
    with torch.no_grad():
        layer.fc2.weight *= 1.5


def replaced_parameters(layer: Any) -> None:
    layer.fc1.weight = nn.Parameter(1.5 * layer.fc1.weight.detach())
    layer.self_attn.k_proj.weight = nn.Parameter(2 * layer.self_attn.k_proj.weight.detach())
    layer.final_layer_norm.bias = nn.Parameter(layer.final_layer_norm.bias.detach() + 0.2)


def replaced_modules(layer: Any) -> None:
    torch.manual_seed(5)
    layer.fc1 = nn.Linear(layer.fc1.in_features, layer.fc1.out_features)
    layer.self_attn.out_proj = nn.Linear(layer.embed_dim, layer.embed_dim)
    layer.final_layer_norm = nn.LayerNorm(layer.embed_dim, eps=0.1)


def another_activation(layer: Any) -> None:
    layer.activation_fn = torch.tanh


def late_hook(layer: Any) -> None:
    layer.fc1.register_forward_hook(scaled)


@pytest.mark.parametrize(
    "change", [added, replaced_parameters, replaced_modules, another_activation, late_hook]
)
@pytest.mark.parametrize("plan", PLANS)
def test_changes_between_generations_are_seen(plan, change) -> None:
    options = DEFAULT.generation_options()
    generator = el_attention.convert(generator_of([model_of("bart")], SYMBOLS, options), plan)
    before = generator.generate(None, DEFAULT.sample())
    change(generator.model.models[0].decoder.layers[1])
    after = generator.generate(None, DEFAULT.sample())
    assert_same(generate([changed("bart", change)], "bart"), after)
    assert before[0][0]["score"] != after[0][0]["score"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_dtype_between_generations(dtype) -> None:
    options = DEFAULT.generation_options()
    generator = el_attention.convert(generator_of([model_of("bart")], SYMBOLS, options))
    generator.generate(None, DEFAULT.sample())
    generator.model.to(dtype)
    fresh = generate([copy.deepcopy(model_of("bart")).to(dtype)], "bart", plan="auto")
    assert_equal(generator.generate(None, DEFAULT.sample()), fresh)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_steps_with_weights_of_its_own(duplicate, steps) -> None:
    original = el_attention.convert(changed("transformer", lambda layer: None))
    unchanged = generate([original], "transformer", plan="auto")
    twin = duplicate(original)
    added(twin.decoder.layers[1])
    steps.clear()
    assert_same(
        generate([changed("transformer", added)], "transformer"),
        generate([twin], "transformer", plan="auto"),
    )
    assert steps["past modules"] > 0
    assert_equal(unchanged, generate([original], "transformer", plan="auto"))


def test_scores_that_are_to_be_masked_are_refused() -> None:
    decoder = el_attention.convert(changed("lm", hooked("fc1"))).decoder
    state: dict[str, Any] = {}
    with torch.no_grad():
        decoder(torch.full((3, 1), SYMBOLS.eos()), incremental_state=state)
        layer = decoder.layers[0]
        x = torch.randn(1, 3, layer.embed_dim)
        with pytest.raises(ValueError, match="attn_mask"):
            layer(x, incremental_state=state, self_attn_mask=torch.ones(1, 1))


class OtherFeatures(TransformerDecoder):
    """Computes features in its own way."""

    def extract_features(self, *args: Any, **kwargs: Any) -> Any:
        features, extra = super().extract_features(*args, **kwargs)
        return 0.5 * features, extra


class OtherDecoder(TransformerDecoder):
    """Counts how often it follows the beams."""

    reorders = 0

    def reorder_incremental_state_scripting(self, *args: Any) -> None:
        OtherDecoder.reorders += 1
        super().reorder_incremental_state_scripting(*args)


def test_a_decoder_that_follows_the_beams_in_its_own_way_still_does() -> None:
    model = copy.deepcopy(model_of("transformer"))
    model.decoder.__class__ = OtherDecoder
    stock = generate([model], "transformer")
    reorders, OtherDecoder.reorders = OtherDecoder.reorders, 0
    assert_same(stock, generate([model], "transformer", plan="auto"))
    assert reorders > 0 and OtherDecoder.reorders > 0
