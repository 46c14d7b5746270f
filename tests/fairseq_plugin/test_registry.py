"""Every architecture and task of the families has a twin that differs in nothing but attention."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from fairseq import models, tasks
from fairseq.models.nat import FairseqNATModel
from fairseq.models.transformer import TransformerModelBase
from fairseq.models.transformer_lm import TransformerLanguageModel

import el_attention
from el_attention.attention import PLAN_CHOICES
from el_attention.fairseq_plugin.attention import ELAttention
from el_attention.fairseq_plugin.registry import TASKS
from tiny import batch, build, dictionary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def architectures() -> list[str]:
    """fairseq's own architectures of the families, straight from its registry."""
    return sorted(
        name
        for name, model in models.ARCH_MODEL_REGISTRY.items()
        if issubclass(model, (TransformerModelBase, TransformerLanguageModel))
        and not issubclass(model, FairseqNATModel)
        and not name.startswith("el_")
    )


# Those that need another package, or a pretrained checkpoint, to be built.
UNBUILDABLE = ("transformer_lm_megatron", "transformer_from_pretrained_xlm")
BUILDABLE = [name for name in architectures() if not name.startswith(UNBUILDABLE)]


def reduced(name: str) -> dict[str, Any]:
    """Options that make any architecture tiny."""
    default = Namespace()
    models.ARCH_CONFIG_REGISTRY[name](default)
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "alignment_layer": 0}
    if getattr(default, "adaptive_softmax_cutoff", None):
        for side in ("adaptive_softmax", "adaptive_input"):
            sizes[f"{side}_cutoff"], sizes[f"{side}_factor"] = "5,9", 2
    return sizes


def test_families_are_complete():
    assert {
        *("transformer", "transformer_iwslt_de_en", "transformer_wmt_en_de_big"),
        *("transformer_align", "bart_base", "bart_large", "mbart_base", "mbart_large"),
        *("transformer_lm", "transformer_lm_gpt2_small", "transformer_lm_gpt3_175"),
    } <= set(architectures())


def test_twins_are_those_of_the_families():
    twins = {name for name in models.ARCH_MODEL_REGISTRY if name.startswith("el_")}
    assert twins == {f"el_{name}" for name in architectures()}
    assert {f"el_{name}" for name in TASKS} == {
        name for name in tasks.TASK_REGISTRY if name.startswith("el_")
    }


@pytest.mark.parametrize("name", architectures())
def test_twin_is_the_architecture(name):
    twin, original = (models.ARCH_MODEL_REGISTRY[prefix + name] for prefix in ("el_", ""))
    assert issubclass(twin, original)
    kind = models.ARCH_MODEL_NAME_REGISTRY[name]
    assert models.ARCH_MODEL_NAME_REGISTRY[f"el_{name}"] == f"el_{kind}"
    assert models.MODEL_DATACLASS_REGISTRY.get(kind) is models.MODEL_DATACLASS_REGISTRY.get(
        f"el_{kind}"
    )
    configurations = []
    for prefix in ("el_", ""):
        options_of_model = Namespace()
        models.ARCH_CONFIG_REGISTRY[prefix + name](options_of_model)
        configurations.append(vars(options_of_model))
    assert configurations[0] == configurations[1]


def state_of(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """A copy of a model's state, because fairseq edits what it loads."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", BUILDABLE)
def test_states_are_exchanged_in_both_directions(name):
    symbols = dictionary()
    original, twin = (
        build(prefix + name, symbols, seed, **reduced(name))
        for prefix, seed in (("", 1), ("el_", 2))
    )
    attentions = [module for module in twin.decoder.modules() if isinstance(module, ELAttention)]
    assert attentions
    assert not any(isinstance(module, ELAttention) for module in original.modules())
    assert list(original.state_dict()) == list(twin.state_dict())
    assert [name for name, _ in original.named_parameters()] == [
        name for name, _ in twin.named_parameters()
    ]
    assert logits(original, symbols).ne(logits(twin, symbols)).any()
    mine = state_of(twin)
    torch.nn.Module.load_state_dict(twin, state_of(original), strict=True)
    assert_close(logits(twin, symbols), logits(original, symbols))
    torch.nn.Module.load_state_dict(original, mine, strict=True)
    torch.nn.Module.load_state_dict(twin, mine, strict=True)
    assert_close(logits(original, symbols), logits(twin, symbols))


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    # Not to the bit: fairseq 0.12.2 has a fast path for encoders that twins do not take.
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def logits(model: Any, symbols: Any) -> torch.Tensor:
    sample = batch(symbols, [5, 5], left_pad=False)["net_input"]
    if hasattr(model, "encoder"):
        sample = {**sample, "prev_output_tokens": sample["src_tokens"]}
    with torch.no_grad():
        return model(**sample)[0]


@pytest.mark.parametrize("name", TASKS)
def test_twin_of_a_task_has_its_options_and_ours(name):
    original, twin = arguments_of(name), arguments_of(f"el_{name}")
    assert twin.pop("attention_plan") == ("auto", PLAN_CHOICES)
    for name in ("journal", "el_memory_budget", "tokens_to_suppress", "ensemble_weights"):
        assert twin.pop(name) == (None, ())
    for name in ("batch_by_memory", "no_repeat_ngram_after_prefix"):
        assert twin.pop(name) == (False, ())
    assert twin == original


def arguments_of(task: str) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Default and choices of every option of a task."""
    parser = argparse.ArgumentParser()
    tasks.TASK_REGISTRY[task].add_args(parser)
    return {
        action.dest: (action.default, tuple(map(str, action.choices or ())))
        for action in parser._actions
    }


def test_registering_again_changes_nothing():
    before = dict(models.ARCH_MODEL_REGISTRY), dict(tasks.TASK_REGISTRY)
    el_attention.fairseq_plugin.register_models()
    el_attention.fairseq_plugin.register_tasks()
    assert before == (dict(models.ARCH_MODEL_REGISTRY), dict(tasks.TASK_REGISTRY))


def test_architectures_registered_later_get_a_twin(monkeypatch):
    registries = (
        "ARCH_MODEL_REGISTRY",
        "ARCH_MODEL_NAME_REGISTRY",
        "ARCH_MODEL_INV_REGISTRY",
        "ARCH_CONFIG_REGISTRY",
    )
    for registry in registries:
        monkeypatch.setattr(models, registry, dict(getattr(models, registry)))

    @models.register_model_architecture("transformer", "someones_own_transformer")
    def configure(args: Namespace) -> None:
        args.encoder_layers = 7

    el_attention.fairseq_plugin.register_models()
    assert models.ARCH_CONFIG_REGISTRY["el_someones_own_transformer"] is configure
