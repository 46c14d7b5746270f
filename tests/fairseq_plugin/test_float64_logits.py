"""Outputs of incremental decoding in float64 against torch's multi-head attention, to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.modules import MultiheadAttention
from torch import Tensor

import el_attention
from crossed import crossed
from families import FAMILIES, LENGTHS, PRE_NORM, SYMBOLS, enliven, model_of
from tiny import PLANS, batch, build, prompts
from walk import assert_walk_agrees, exact

NORMFORMER = {"scale_attn": True, "scale_heads": True, "scale_fc": True, "scale_resids": True}

# Architecture and options of models that are built unlike the families of the matrix.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "wide encoder": ("transformer", {"encoder_embed_dim": 40}),
    "narrow encoder": ("transformer", {"encoder_embed_dim": 16, **PRE_NORM}),
    "one head": ("transformer", {"decoder_attention_heads": 1}),
    "heads of width 1": ("transformer", {"decoder_attention_heads": 24}),
    "output of another width": (
        "transformer",
        {"decoder_input_dim": 32, "decoder_embed_dim": 32, "decoder_output_dim": 24},
    ),
    "all embeddings tied": ("transformer", {"share_all_embeddings": True}),
    "output tied to input": ("transformer", {"share_decoder_input_output_embed": True}),
    "learned positions": (
        "transformer",
        {"decoder_learned_pos": True, "encoder_learned_pos": True},
    ),
    "no positions": ("transformer", {"no_token_positional_embeddings": True}),
    "no final norm": ("transformer", {**PRE_NORM, "no_decoder_final_norm": True}),
    "no encoder-decoder attention": ("transformer", {"no_cross_attention": True}),
    "normformer": ("transformer", {**PRE_NORM, **NORMFORMER}),
    "quantization noise": ("transformer", {"quant_noise_pq": 0.5, "quant_noise_pq_block_size": 4}),
    "layer drop": ("transformer", {"decoder_layerdrop": 0.5, "encoder_layerdrop": 0.5}),
    "language model, input and output of another width": (
        "transformer_lm",
        {"decoder_input_dim": 16, "decoder_output_dim": 20},
    ),
    "language model, tied": ("lm", {"share_decoder_input_output_embed": True}),
    "language model, adaptive softmax": (
        "transformer_lm",
        {
            "adaptive_softmax_cutoff": "10,20",
            "adaptive_softmax_dropout": 0.1,
            "adaptive_softmax_factor": 2,
            "tie_adaptive_weights": False,
            "decoder_normalize_before": True,
        },
    ),
    "language model, adaptive input": (
        "transformer_lm_wiki103",
        {
            "adaptive_softmax_cutoff": "10,20",
            "adaptive_input_cutoff": "10,20",
            "decoder_layerdrop": 0.2,
        },
    ),
    "language model, quantization noise": (
        "lm",
        {"quant_noise_pq": 0.5, "quant_noise_pq_block_size": 4},
    ),
}  # fmt: skip


def walk(stock: BaseFairseqModel, changed: BaseFairseqModel, plan: str, **options: Any) -> None:
    """Walks with `changed`, converted, and with `stock`; both are copied."""
    stock = exact(copy.deepcopy(stock).double())
    converted = el_attention.convert(copy.deepcopy(changed).double(), plan)
    with_encoder = hasattr(stock, "encoder")
    sample = batch(SYMBOLS, LENGTHS) if with_encoder else None
    assert_walk_agrees(stock, converted, sample, sentences=len(LENGTHS), **options)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, plan) -> None:
    walk(model_of(family), model_of(family), plan)


@pytest.mark.parametrize("plan", PLANS)
def test_many_beams_and_steps(plan) -> None:
    walk(model_of("pre-norm"), model_of("pre-norm"), plan, beam=32, steps=9)
    walk(model_of("bart"), model_of("bart"), plan, beam=2, steps=45)


@pytest.mark.parametrize(("plan", "name"), crossed(PLANS, VARIANTS))
def test_variants(name, plan) -> None:
    architecture, options = VARIANTS[name]
    model = enliven(build(architecture, SYMBOLS, 0, **options), 0)
    walk(model, model, plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("lengths", [[4, 1, 2, 6], [3, 3, 3, 3], [1, 1, 1, 1]])
def test_prompts_of_a_language_model(lengths, plan) -> None:
    prompt = prompts(SYMBOLS, lengths)
    prompt[:, 0] = SYMBOLS.eos()
    walk(model_of("lm"), model_of("lm"), plan, prompt=prompt)


def attentions(model: BaseFairseqModel) -> list[tuple[torch.nn.Module, str]]:
    """Where the attentions of a decoder are: layers and names."""
    return [
        (layer, name)
        for layer in model.decoder.layers
        for name in ("self_attn", "encoder_attn")
        if getattr(layer, name) is not None
    ]


def replaced(model: BaseFairseqModel, make: Callable[..., MultiheadAttention]) -> BaseFairseqModel:
    """A copy of a model with other attentions: `make(attention, is_self_attention)`."""
    model = copy.deepcopy(model)
    for layer, name in attentions(model):
        setattr(layer, name, make(getattr(layer, name), name == "self_attn"))
    return model.eval()


def attention_like(attention: MultiheadAttention, **options: object) -> MultiheadAttention:
    """A new attention with the weights of another one, as far as it has them."""
    new = MultiheadAttention(
        attention.embed_dim,
        attention.num_heads,
        kdim=attention.kdim,
        vdim=attention.vdim,
        self_attention=attention.self_attention,
        encoder_decoder_attention=attention.encoder_decoder_attention,
        **options,
    )
    new.load_state_dict(attention.state_dict(), strict=False)
    return new


# Family, options of self-attention, options of encoder-decoder attention.
SINKS: dict[str, tuple[str, dict[str, bool], dict[str, bool]]] = {
    "bias": ("transformer", {"add_bias_kv": True}, {}),
    "zeros": ("transformer", {"add_zero_attn": True}, {}),
    "bias and zeros": ("transformer", {"add_bias_kv": True, "add_zero_attn": True}, {}),
    "zeros at the source": ("bart", {}, {"add_zero_attn": True}),
    "everywhere": ("pre-norm", *({"add_bias_kv": True, "add_zero_attn": True},) * 2),
    "bias, language model": ("lm", {"add_bias_kv": True}, {}),
    "bias and zeros, language model": ("lm", {"add_bias_kv": True, "add_zero_attn": True}, {}),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SINKS)
def test_keys_and_values_outside_the_sequence(name, plan) -> None:
    family, own, source = SINKS[name]
    torch.manual_seed(0)
    model = replaced(
        model_of(family),
        lambda attention, is_self: attention_like(attention, **(own if is_self else source)),
    )
    walk(model, model, plan)
    if family == "lm":
        walk(model, model, plan, prompt=prompts(SYMBOLS, [3, 1, 4, 2]))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_projections_without_bias_are_those_with_bias_zero(family, plan) -> None:
    """Stock fairseq cannot run them outside incremental decoding, hence the zeros."""
    without = replaced(model_of(family), lambda attention, _: attention_like(attention, bias=False))
    zeros = copy.deepcopy(model_of(family))
    for layer, name in attentions(zeros):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            getattr(getattr(layer, name), projection).bias.data.zero_()
    walk(zeros, without, plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_pruned_heads_are_heads_without_output(family, plan) -> None:
    """Every layer loses other heads; their output projection is zero in the reference."""
    pruned, silenced = copy.deepcopy(model_of(family)), copy.deepcopy(model_of(family))
    pairs = zip(attentions(pruned), attentions(silenced), strict=True)
    for index, ((layer, name), (reference_layer, _)) in enumerate(pairs):
        attention, reference = getattr(layer, name), getattr(reference_layer, name)
        kept = [head for head in range(attention.num_heads) if head != index % 4]
        if index % 2:
            kept = kept[:0:-1]
        ranges = [(h * attention.head_dim, (h + 1) * attention.head_dim) for h in kept]
        silent = torch.ones(attention.embed_dim, dtype=torch.bool)
        for start, end in ranges:
            silent[start:end] = False
        reference.out_proj.weight.data[:, silent] = 0
        attention._adaptive_prune_heads(ranges)
        attention._set_skip_embed_dim_check()
    walk(silenced, pruned, plan)


def test_the_walk_sees_a_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk must fail when beams are reordered wrongly."""
    from el_attention.state import BeamTree

    reorder = BeamTree.reorder

    def wrong(self: BeamTree, order: Tensor) -> Tensor:
        return reorder(self, order.view(-1, self.beam).flip(1).flatten())

    monkeypatch.setattr(BeamTree, "reorder", wrong)
    with pytest.raises(AssertionError, match="relative difference"):
        walk(model_of("bart"), model_of("bart"), "expanded-query")
