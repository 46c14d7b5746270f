"""`el_attention.convert` on models in memory: the hub interface, copies and pickles."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel

import el_attention
from clidata import SETUPS, SINGLE_SENTENCES
from el_attention.plugin.attention import ELAttention
from el_attention.plugin.decoder import ELDecoder
from el_attention.plugin.generator import ELGenerator
from tiny import FAMILIES, PLANS, assert_same, batch, build, dictionary, generate_both, prompts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Words:
    """A BPE that leaves words whole."""

    def encode(self, sentence: str) -> str:
        return sentence

    decode = encode


CLASSES = {
    "transformer": (TransformerModel, "translation", "s"),
    "bart": (BARTModel, "joint", "w"),
    "lm": (TransformerLanguageModel, "lm", "t"),
}


def hub(workspace: Any, name: str) -> Any:
    """A fresh hub interface on a checkpoint."""
    model, setup, _ = CLASSES[name]
    path = Path(workspace.checkpoint(name))
    data = str(workspace.root / SETUPS[setup].data)
    # BART's default would download one; any that needs no file will do.
    options = {"bpe": "characters"} if name == "bart" else {}
    interface = model.from_pretrained(str(path.parent), path.name, data, **options).eval()
    interface.bpe = Words() if name == "bart" else None
    return interface


def sentences(name: str) -> list[str]:
    prefix = CLASSES[name][2]
    lines = ["{0}1 {0}2 {0}7 {0}3", "{0}5", "{0}6 {0}2 {0}9 {0}4 {0}4 {0}1", "{0}8 {0}2"]
    return [line.format(prefix) for line in lines]


@pytest.fixture(params=CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "lm" and not SINGLE_SENTENCES:
        pytest.skip("fairseq reads np.compat, which numpy 2 has not")
    return str(request.param)


@pytest.mark.parametrize("plan", [*PLANS, "auto"])
def test_hub_interface_translates_and_samples_as_stock(
    workspace: Any, name: str, plan: str
) -> None:
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name), plan)
    attention = next(m for m in ours.modules() if isinstance(m, ELAttention))
    assert attention.el_planner.name == plan
    lines = sentences(name)
    tokens = [stock.encode(line) for line in lines]
    options: list[dict[str, Any]] = [
        {"beam": 5},
        {"beam": 1},
        {"beam": 3, "lenpen": 0.5, "max_len_b": 6, "min_len": 2},
        {"beam": 4, "diverse_beam_groups": 2},
    ]
    for option in options:
        # BART remembers the beam of its first generation: a fresh model for every beam.
        stock = hub(workspace, name) if name == "bart" else stock
        assert_same(
            stock.generate(tokens, **option), ours.generate(tokens, **option), tolerance=1e-4
        )
    stock = hub(workspace, name)
    if name != "bart":
        assert ours.translate(lines) == stock.translate(lines)
        assert ours.translate(lines[0]) == stock.translate(lines[0])
        assert len(set(ours.translate(lines))) == len(lines)
    results = []
    for interface in (stock, ours):
        torch.manual_seed(3)
        results.append(interface.sample(lines, beam=1, sampling=True, sampling_topk=6))
    assert results[0] == results[1]


def test_hub_interface_scores_as_stock(workspace, name):
    stock, ours = hub(workspace, name), el_attention.convert(hub(workspace, name))
    if name != "lm":  # fairseq's own scoring knows language models only
        with pytest.raises(TypeError, match="prev_output_tokens"):
            stock.score(sentences(name))
        with pytest.raises(TypeError, match="prev_output_tokens"):
            ours.score(sentences(name))
        return
    for one, other in zip(stock.score(sentences(name)), ours.score(sentences(name)), strict=True):
        assert torch.equal(one["tokens"], other["tokens"])
        assert torch.equal(one["positional_scores"], other["positional_scores"])


def test_converting_twice_changes_the_plan_only(workspace):
    ours = el_attention.convert(hub(workspace, "transformer"), "expanded-query")
    classes = [type(module) for module in ours.modules()]
    again = el_attention.convert(ours, "shared-projection")
    assert again is ours
    assert [type(module) for module in ours.modules()] == classes
    assert {m.el_planner.name for m in ours.modules() if isinstance(m, ELAttention)} == {
        "shared-projection"
    }
    generator = ours.task.build_generator(ours.models, ours.cfg.generation)
    assert isinstance(generator, ELGenerator)
    assert ours.translate(sentences("transformer")) == hub(workspace, "transformer").translate(
        sentences("transformer")
    )


def test_the_other_objects_of_a_converted_model_keep_their_classes(workspace):
    stock, ours = hub(workspace, "transformer"), hub(workspace, "transformer")
    el_attention.convert(ours)
    before = {name: type(module) for name, module in stock.named_modules()}
    after = {name: type(module) for name, module in ours.named_modules()}
    assert before.keys() == after.keys()
    for name, changed in after.items():
        assert issubclass(changed, before[name])
        if "decoder" not in name and not name.endswith("encoder"):
            assert changed is before[name]
    assert not any(isinstance(module, ELAttention | ELDecoder) for module in stock.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_of_converted_models_are_converted_models(family, duplicate):
    symbols = dictionary()
    original = build(family, symbols, seed=3)
    converted = el_attention.convert(copy.deepcopy(original), "expanded-query")
    twin = duplicate(converted)
    assert type(twin.decoder) is type(converted.decoder)
    assert [type(module) for module in twin.modules()] == [
        type(module) for module in converted.modules()
    ]
    assert not set(map(id, twin.parameters())) & set(map(id, converted.parameters()))
    sample = batch(symbols, [5, 3])
    arguments = {"prefix_tokens": prompts(symbols, [3, 1])} if family == "lm" else {}
    stock, ours = generate_both(
        [original], symbols, sample, "expanded-query", {"beam": 3, "max_len_b": 9}, **arguments
    )
    _, copied = generate_both(
        [twin], symbols, sample, "expanded-query", {"beam": 3, "max_len_b": 9}, **arguments
    )
    assert_same(stock, ours)
    assert_same(ours, copied, tolerance=0.0)


def test_states_saved_from_converted_models_are_plain(workspace, tmp_path):
    stock, ours = hub(workspace, "transformer"), hub(workspace, "transformer")
    torch.save(el_attention.convert(ours).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    stock.load_state_dict(state)
    assert list(state) == list(stock.state_dict())


@pytest.mark.parametrize("target", [None, torch.nn.Linear(2, 2), "transformer"])
def test_other_objects_are_refused(target):
    with pytest.raises(TypeError, match=rf"hub interface.*got {type(target).__name__}"):
        el_attention.convert(target)


def test_unknown_plans_are_refused():
    model = build("transformer", dictionary())
    with pytest.raises(ValueError, match=r"expanded-query.*'fastest'"):
        el_attention.convert(model, "fastest")
    assert not any(isinstance(module, ELAttention) for module in model.modules())


@pytest.mark.parametrize("hubs", ["one hub", "two hubs of one model"])
def test_threads_that_sample_through_hubs_get_what_each_would_get_alone(
    workspace: Any, name: str, hubs: str
) -> None:
    ours = el_attention.convert(hub(workspace, name))
    other = copy.copy(ours) if hubs == "two hubs of one model" else ours
    lines = sentences(name) * 3
    stock = hub(workspace, name)
    expected = [stock.translate([line])[0] for line in lines]

    def sample(index: int) -> str:
        (text,) = (ours, other)[index % 2].translate([lines[index]])
        return str(text)

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(sample, range(len(lines)))) == expected
