"""A run keeps its state to itself: threads, layers that stand in several places, gradients."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoder
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

import el_attention
from crossed import crossed
from families import FEATURES, SYMBOLS, WITH_ENCODER, generate, model_of
from tiny import PLANS, Hypotheses, assert_same, batch, generator_of, prompts
from walk import assert_walk_agrees, exact


@pytest.mark.parametrize(
    ("shared", "search", "family"),
    crossed(["model", "generator"], ["beam 5", "sampling top-k"], ["lm", "bart"]),
)
def test_threads_that_share_a_model_get_what_each_would_get_alone(family, search, shared) -> None:
    options = {"beam": 3, "max_len_b": 12, **FEATURES[search].options}
    model = model_of(family)
    deterministic = search == "beam 5"

    def job(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 8, (2,), generator=generator).tolist()
        job: dict[str, Any] = {"sample": batch(SYMBOLS, lengths, seed)}
        if family == "lm":
            job["prefix_tokens"] = prompts(SYMBOLS, lengths, seed)
        return job

    jobs = [job(seed) for seed in range(24)]
    stock = generator_of([model], SYMBOLS, options)
    expected = [stock.generate(None, **copy.deepcopy(job)) for job in jobs]
    converted = el_attention.convert(copy.deepcopy(model))
    one = el_attention.convert(generator_of([converted], SYMBOLS, options))

    def run(job: dict[str, Any]) -> Hypotheses:
        torch.set_num_threads(1)
        if shared == "generator":
            return one.generate(None, **job)
        return _over(converted, options).generate(None, **job)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(run, jobs))
    for want, got in zip(expected, results, strict=True):
        if deterministic:
            assert_same(want, got)
        else:  # threads draw from one source of random numbers: only the prompts must be right
            for one_, other in zip(want, got, strict=True):
                assert len(one_) == len(other)
    if family == "lm" and not deterministic:
        for work, got in zip(jobs, results, strict=True):
            for prefix, hypotheses in zip(work["prefix_tokens"], got, strict=True):
                words = prefix[prefix.ne(SYMBOLS.pad())]
                assert all(torch.equal(h["tokens"][: len(words)], words) for h in hypotheses)


def _over(model: BaseFairseqModel, options: dict[str, Any]) -> Any:
    """A converted generator over `model` itself, not over a copy."""
    generator = generator_of([model], SYMBOLS, options)
    generator.model.models = nn.ModuleList([model])
    generator.model.single_model = model
    return el_attention.convert(generator)


def sharing(family: str, parts: str) -> BaseFairseqModel:
    """A model whose decoder uses the same layer, or parts of it, in several places."""
    model = copy.deepcopy(model_of(family)).double()
    layers = model.decoder.layers
    if parts == "layers":
        model.decoder.layers = nn.ModuleList([layers[0], layers[1], layers[0], layers[0]])
        model.decoder.num_layers = 4
    else:
        names = {
            "self-attention": ["self_attn"],
            "encoder-decoder attention": ["encoder_attn"],
            "attentions": ["self_attn", "encoder_attn"],
            "feed-forward": ["fc1", "fc2", "final_layer_norm"],
        }[parts]
        for layer in layers[1:]:
            for name in names:
                setattr(layer, name, getattr(layers[0], name))
    return exact(model)


@pytest.mark.parametrize(("hooked", "mix"), [(False, False), (True, True)])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("parts", ["layers", "self-attention", "attentions", "feed-forward"])
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_parts_that_stand_in_several_places_keep_states_for_each(
    family, parts, plan, mix, hooked
) -> None:
    model = sharing(family, parts)
    converted = copy.deepcopy(model)
    for module in converted.decoder.modules():
        if type(module).__name__ == "TorchAttention":
            module.__class__ = type(module).__mro__[1]
    el_attention.convert(converted, plan)
    if hooked:  # the way through the modules
        converted.decoder.layers[0].fc1.register_forward_hook(lambda *_: None)
    has_encoder = family in WITH_ENCODER
    prompt = None if has_encoder or mix else prompts(SYMBOLS, [5, 2, 1])
    assert_walk_agrees(
        model,
        converted,
        batch(SYMBOLS, [6, 3, 1]) if has_encoder else None,
        sentences=3,
        beam=3,
        steps=9,
        mix=mix,
        prompt=prompt,
        tolerance=1e-11,
    )


class OwnAttention(MultiheadAttention):
    """Attention of somebody else, which keeps states as fairseq's does."""


@pytest.mark.parametrize("parts", ["layers", "attentions"])
@pytest.mark.parametrize("family", ["transformer", "lm"])
def test_attentions_that_share_no_states_keep_some_for_each_place(family, parts) -> None:
    model = sharing(family, parts)
    converted = copy.deepcopy(model)
    for module in converted.decoder.modules():
        if type(module).__name__ == "TorchAttention":
            module.__class__ = OwnAttention
    el_attention.convert(converted)
    sample = batch(SYMBOLS, [6, 3, 1]) if family in WITH_ENCODER else None
    assert_walk_agrees(model, converted, sample, sentences=3, beam=3, steps=7, tolerance=1e-6)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["transformer", "bart", "lm"])
def test_gradients_through_incremental_steps_are_fairseqs(family, plan) -> None:
    gradients = []
    for convert in (False, True):
        model = copy.deepcopy(model_of(family)).double()
        if convert:
            el_attention.convert(model, plan)
        encoder_out = None
        if family in WITH_ENCODER:
            encoder_out = model.encoder.forward_torchscript(batch(SYMBOLS, [5, 3])["net_input"])
            order = torch.arange(2).repeat_interleave(2)
            encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        tokens = torch.full((4, 1), SYMBOLS.eos())
        state: dict[str, Any] = {}
        loss = torch.zeros((), dtype=torch.float64)
        for step in range(6):
            logits = model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)[0]
            loss = loss + logits[:, -1].logsumexp(-1).sum()
            tokens = torch.cat([tokens, torch.arange(4)[:, None] + 5 + step], 1)
            order = torch.tensor([1, 0, 3, 3])
            model.decoder.reorder_incremental_state_scripting(state, order)
            tokens = tokens[order]
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("feature", ["beam 5", "sampling top-k"])
@pytest.mark.parametrize("family", ["transformer", "bart"])
def test_a_hook_gets_the_attention_weights_that_stock_gives_it(family, feature) -> None:
    weights: list[list[Tensor]] = []
    for plan in (None, *PLANS):
        model = copy.deepcopy(model_of(family))
        generator = generator_of([model], SYMBOLS, FEATURES[feature].generation_options())
        if plan is not None:
            el_attention.convert(generator, plan)
        (inner,) = generator.model.models
        seen: list[Tensor] = []
        for layer in inner.decoder.layers:
            layer.encoder_attn.register_forward_hook(lambda m, a, out, to=seen: to.append(out[1]))
            layer.register_forward_hook(lambda m, a, out, to=seen: to.append(out[1]))
        torch.manual_seed(0)
        generator.generate(None, batch(SYMBOLS, (9, 5, 7, 2)))
        weights.append(seen)
    for ours in weights[1:]:
        assert len(ours) == len(weights[0]) > 20
        for got, want in zip(ours, weights[0], strict=True):
            assert got is not None
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


class Pointer(TransformerDecoder):
    """A decoder that points at the source: it reads tokens, lengths, embeddings and weights."""

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs):
        x, extra = self.extract_features(
            prev_output_tokens, encoder_out=encoder_out, incremental_state=incremental_state
        )
        logits = self.output_layer(x)
        source = encoder_out["src_tokens"][0].unsqueeze(1).expand(-1, x.size(1), -1)
        logits = logits.scatter_add(2, source, 5 * extra["attn"][0].to(logits))
        lengths = encoder_out["src_lengths"][0].view(-1, 1, 1).to(logits)
        embedded = encoder_out["encoder_embedding"][0].sum((1, 2)).view(-1, 1, 1)
        states = encoder_out["encoder_out"][0].sum((0, 2)).view(-1, 1, 1)
        shift = (lengths + embedded + states).sin()
        return logits + shift * torch.arange(logits.size(-1)).to(logits).cos(), extra


class Reading(TransformerDecoder):
    """A decoder whose features depend on the tokens of the source."""

    def extract_features(self, prev_output_tokens, encoder_out=None, *args, **kwargs):
        x, extra = super().extract_features(prev_output_tokens, encoder_out, *args, **kwargs)
        assert len(encoder_out["src_tokens"][0]) == len(x)
        return x + encoder_out["src_tokens"][0].float().mean(1).sin().view(-1, 1, 1), extra


def giving_tokens(model: BaseFairseqModel) -> None:
    """Lets the encoder return the tokens of the source, as pointer-generators do."""

    class Giving(type(model.encoder)):  # type: ignore[misc]
        def forward(self, src_tokens, *args, **kwargs):
            return {**super().forward(src_tokens, *args, **kwargs), "src_tokens": [src_tokens]}

    model.encoder.__class__ = Giving


@pytest.mark.parametrize("feature", ["beam 5", "diverse beams"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", [Pointer, Reading])
# fairseq's BART gives decoders one row per sentence: it does not reorder its encoder output.
@pytest.mark.parametrize("family", ["transformer", "pre-norm"])
def test_every_part_of_the_encoder_output_can_be_read_per_beam(family, kind, plan, feature) -> None:
    model = copy.deepcopy(model_of(family))
    model.decoder.__class__ = kind
    giving_tokens(model)
    stock = generate([model], family, FEATURES[feature])
    plain = generate([model_of(family)], family, FEATURES[feature])
    assert stock[0][0]["score"] != plain[0][0]["score"]
    assert_same(stock, generate([model], family, FEATURES[feature], plan))
