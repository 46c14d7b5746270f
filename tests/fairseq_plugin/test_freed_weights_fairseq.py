"""fairseq's models that are there to generate, without the float32 weights that 16 bits say."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

import el_attention
from clidata import run
from el_attention.decoder import FreedModule, freed
from el_attention.fairseq_plugin.decoding import DecodingState
from el_attention.fairseq_plugin.task import ELTask
from el_attention.ops import NARROW_DTYPES, extension
from families import DEFAULT, FEATURES, SYMBOLS, Feature, model_of
from tiny import Hypotheses, generator_of

pytestmark = pytest.mark.skipif(
    extension.unsupported is not None, reason=f"the compiled operators are {extension.unsupported}"
)


def exact_model(family: str, dtype: torch.dtype = torch.float16) -> BaseFairseqModel:
    """A float32 model as if it were read from a checkpoint of another dtype."""
    tables = {"share_all_embeddings": True} if family == "transformer" else {}
    return copy.deepcopy(model_of(family, **tables)).to(dtype).float()


def freed_model(family: str = "transformer") -> BaseFairseqModel:
    return el_attention.convert(exact_model(family), generation_only=True)


def freed_names(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, FreedModule)]


def is_whole(model: nn.Module, stock: nn.Module) -> bool:
    """Whether a model has the weights of another one, tied as they are there."""
    mine, theirs = dict(model.named_parameters()), dict(stock.named_parameters())
    return list(mine) == list(theirs) and all(
        type(mine[name]) is nn.Parameter and torch.equal(mine[name], theirs[name])
        for name in theirs
    )


def assert_equal(expected: Hypotheses, found: Hypotheses) -> None:
    """Asserts the same hypotheses with the same bits."""
    for ours, theirs in zip(expected, found, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            for key in ("tokens", "score", "positional_scores"):
                assert torch.equal(one[key], other[key])


def generation(
    model: BaseFairseqModel,
    family: str = "transformer",
    feature: Feature = DEFAULT,
    plan: str = "shared-projection",
    generation_only: bool = False,
) -> tuple[Hypotheses, Any]:
    """Generates from a copy of a model; returns the hypotheses and the copy."""
    generator = generator_of([model], SYMBOLS, feature.generation_options(), **feature.extra())
    el_attention.convert(generator, plan, generation_only=generation_only)
    torch.manual_seed(0)
    found = generator.generate(None, feature.sample(), **feature.generation_arguments(family))
    return found, generator.model.models[0]


@pytest.mark.parametrize("dtype", NARROW_DTYPES, ids=str)
@pytest.mark.parametrize("plan", ("expanded-query", "shared-projection"))
@pytest.mark.parametrize("family", ("transformer", "bart", "lm"))
def test_hypotheses_and_scores_have_the_bits_of_float32_weights(family, plan, dtype):
    """A batch of four sentences: more rows than a step reads in 16 bits beside float32."""
    model = exact_model(family, dtype)
    found, used = generation(model, family, plan=plan, generation_only=True)
    assert freed_names(used) != []
    assert_equal(generation(model, family, plan=plan)[0], found)


@pytest.mark.parametrize("name", ("diverse beams", "sampling", "ordered constraints", "prefix"))
def test_every_search_steps_by_narrow_weights_alone(name):
    model = exact_model("transformer")
    found, used = generation(model, feature=FEATURES[name], generation_only=True)
    assert freed_names(used) != []
    assert_equal(generation(model, feature=FEATURES[name])[0], found)


def test_all_but_keys_and_values_of_a_decoder_are_freed():
    model = freed_model()
    layers = model.decoder.layers
    expected = {
        f"decoder.layers.{index}.{name}"
        for index in range(len(layers))
        for name in (
            *("self_attn.q_proj", "self_attn.out_proj", "encoder_attn.q_proj"),
            *("encoder_attn.out_proj", "fc1", "fc2"),
        )
    }
    assert {*freed_names(model)} == expected | {
        "encoder.embed_tokens",
        "decoder.output_projection",
    }


def test_a_weight_that_16_bits_do_not_hold_stays():
    model = exact_model("lm")
    with torch.no_grad():
        model.decoder.layers[0].fc1.weight[-1, -1] = 1 / 3
    el_attention.convert(model, generation_only=True)
    layers = model.decoder.layers
    assert not isinstance(layers[0].fc1, FreedModule) and isinstance(layers[1].fc1, FreedModule)


@pytest.mark.parametrize("change", ("training", "float64", "half", "no operators", "gradient"))
def test_models_that_read_no_narrow_weights_stay_as_they_are(change, monkeypatch):
    model = exact_model("transformer")
    if change == "training":
        model.train()
    elif change == "gradient":
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    elif change == "no operators":
        monkeypatch.setattr(extension, "unsupported", "not built: this test does without")
    else:
        model.to(getattr(torch, change))
    assert freed_names(el_attention.convert(model, generation_only=True)) == []


def live_bytes() -> int:
    """Bytes of all tensors that are alive, but those that stand for others, as fake ones do."""
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def test_a_generation_has_fewer_bytes_alive_by_what_was_freed(monkeypatch):
    alive: list[int] = []
    reorder = DecodingState.reorder

    def watched(self: DecodingState, order: Tensor) -> None:
        if len(alive) < 2:  # as good as any later step; a look at all objects takes its time
            alive.append(live_bytes())
        reorder(self, order)

    monkeypatch.setattr(DecodingState, "reorder", watched)
    peaks, gone = [], 0
    for generation_only in (True, False, True):  # the first run makes what others find
        alive.clear()
        gc.collect()
        model = exact_model("transformer")
        before = sum(parameter.nbytes for parameter in model.parameters())
        _, used = generation(model, generation_only=generation_only)
        gone = before - sum(parameter.nbytes for parameter in used.parameters())
        peaks.append(max(alive))
        del model, used
    assert gone > before / 3
    assert peaks[1] - peaks[2] == gone


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_freed_and_restored_by_itself(copied):
    model = freed_model()
    twin = copied(model)
    assert freed_names(twin) == freed_names(model) != []
    twin.double()
    assert freed_names(twin) == []
    assert_equal(generation(model)[0], generation(twin.float())[0])
    assert freed_names(model) != []


def is_trained(model: Any) -> None:
    model.train().eval()


def is_saved(model: Any) -> None:
    stock = exact_model("transformer").state_dict()
    state = model.state_dict()
    assert list(state) == list(stock)
    assert all(torch.equal(state[name], stock[name]) for name in stock)


def is_loaded(model: Any) -> None:
    model.load_state_dict(exact_model("transformer").state_dict())


def is_moved(model: Any) -> None:
    model.to("cpu")


def is_read(model: Any) -> None:
    assert model.decoder.layers[0].fc1.weight.dtype == torch.float32


def is_replaced(model: Any) -> None:
    model.decoder.layers[0].fc1.weight = nn.Parameter(
        exact_model("transformer").decoder.layers[0].fc1.weight.detach().clone()
    )


def scores(model: Any) -> None:
    sample = DEFAULT.sample()["net_input"]
    inputs = sample["src_tokens"], sample["src_lengths"], sample["src_tokens"]
    with torch.no_grad():
        found, expected = model(*inputs)[0], exact_model("transformer")(*inputs)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "use", (is_trained, is_saved, is_loaded, is_moved, is_read, is_replaced, scores)
)
def test_whatever_else_reads_the_weights_finds_the_whole_model(use: Callable[..., None], caplog):
    caplog.set_level(logging.INFO, freed.__name__)
    model = freed_model()
    parameter = model.decoder.layers[0].fc2.el_freed._freed[0].parameter
    use(model)
    assert freed_names(model) == [] and is_whole(model, exact_model("transformer"))
    assert any(parameter is each for each in model.parameters())
    assert model.decoder.output_projection.weight is model.encoder.embed_tokens.weight
    (line,) = caplog.messages
    assert "float32 again" in line


def test_casts_give_the_bits_that_they_give_stock():
    for cast in (torch.float64, torch.float16, torch.bfloat16):
        assert is_whole(freed_model().to(cast), exact_model("transformer").to(cast))


@pytest.fixture
def freed_in_steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the models of each step of a task were freed."""
    seen: list[bool] = []
    step = ELTask.inference_step

    def watched(self: Any, generator: Any, models: Any, *args: Any, **kwargs: Any) -> Any:
        found = step(self, generator, models, *args, **kwargs)
        seen.append(all(freed_names(model) for model in models))
        return found

    monkeypatch.setattr(ELTask, "inference_step", watched)
    return seen


@pytest.mark.parametrize("options", ((), ("--batch-by-memory",), ("--journal",)), ids=str)
@pytest.mark.parametrize(("command", "stdin"), (("generate", ""), ("interactive", "s3 s1 s4")))
def test_programs_that_generate_free_weights(
    options, command, stdin, workspace, freed_in_steps, tmp_path
):
    state = torch.load(workspace.checkpoint("transformer"), weights_only=False)
    state["model"] = {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in state["model"].items()
    }
    path = str(tmp_path / "exact.pt")
    torch.save(state, path)
    arguments = workspace.generation("translation", "transformer", *options, plan="auto")
    arguments[arguments.index("--path") + 1] = path
    if "--journal" in arguments:
        arguments.insert(arguments.index("--journal") + 1, str(tmp_path / "journal"))
    assert run(command, *arguments, stdin=stdin)
    assert freed_in_steps and all(freed_in_steps)
