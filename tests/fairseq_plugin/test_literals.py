"""Options of a checkpoint that fairseq would evaluate as code are refused, before it can."""

from __future__ import annotations

import argparse
import ast
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import fairseq
import pytest
import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_REGISTRY
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel
from omegaconf import OmegaConf

from clidata import SETUPS, run
from crossed import crossed
from el_attention.fairseq_plugin.literals import EVALUATED, require_literals

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

MARKER = Path(tempfile.gettempdir()) / f"evaluated-{os.getpid()}"
CODE = f"__import__('pathlib').Path({str(MARKER)!r}).touch() or [4, 8]"

# Each checkpoint, the class that loads it from a hub and options that its model has evaluated.
MODELS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "transformer": (TransformerModel, "transformer", {"adaptive_softmax_cutoff": CODE}),
    "bart": (BARTModel, "bart", {"adaptive_softmax_cutoff": CODE}),
    "lm": (TransformerLanguageModel, "transformer_lm", {"adaptive_softmax_cutoff": CODE}),
    "lm of characters": (
        TransformerLanguageModel,
        "transformer_lm",
        {"character_embeddings": True, "character_filters": CODE},
    ),
    "lm of adaptive inputs": (
        TransformerLanguageModel,
        "transformer_lm",
        {"adaptive_input": True, "adaptive_input_cutoff": CODE},
    ),
    "xformers of a lm": (
        TransformerLanguageModel,
        "transformer_lm",
        {"decoder_xformers_att_config": CODE},
    ),
    "xformers of an encoder": (
        TransformerModel,
        "transformer",
        {"encoder_xformers_att_config": CODE},
    ),
}


@pytest.fixture(autouse=True)
def nothing_is_executed() -> Any:
    MARKER.unlink(missing_ok=True)
    yield
    assert not MARKER.exists()


def setup_of(name: str) -> str:
    return {"transformer": "translation", "bart": "joint"}.get(MODELS[name][1], "lm")


def write(workspace: Any, tmp_path: Path, name: str, kind: str, task: str | None = None) -> Path:
    """A checkpoint with a hostile option, in the form of one age of fairseq."""
    trained = name.split()[0] if name.split()[0] in ("transformer", "bart") else "lm"
    trained = "transformer" if name == "xformers of an encoder" else trained
    state = torch.load(workspace.checkpoint(trained))
    model = state["cfg"]["model"]
    (model if isinstance(model, dict) else vars(model)).update(MODELS[name][2])
    if kind == "namespace":
        arguments = options.parse_args_and_arch(
            options.get_training_parser(), workspace.training(trained)
        )
        vars(arguments).update(MODELS[name][2])
        if task:
            arguments.task = task
        state["args"], state["cfg"] = arguments, None
    else:
        if task:
            state["cfg"]["task"]["_name"] = task
        if kind == "omegaconf":
            state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=kind != "legacy")
    return tmp_path / "model.pt"


KINDS = ("dictionary", "namespace", "omegaconf", "legacy")
CASES = [(name, kind) for name in MODELS for kind in (KINDS if " " not in name else KINDS[:1])]


@pytest.mark.parametrize(("name", "kind"), crossed(CASES))
def test_code_in_an_option_is_refused_from_the_command_line(workspace, tmp_path, name, kind):
    path = write(workspace, tmp_path, name, kind)
    setup = SETUPS[setup_of(name)]
    arguments = [*setup.arguments(workspace.root, "el_"), "--path", str(path), "--cpu"]
    option = list(MODELS[name][2])[-1]
    with pytest.raises(ValueError, match=f"option {option}.*pathlib"):
        run("generate", *arguments)
    parsed = options.parse_args_and_arch(options.get_generation_parser(), arguments)
    task = tasks.setup_task(convert_namespace_to_omegaconf(parsed).task)
    with pytest.raises(ValueError, match=f"option {option}.*pathlib"):
        checkpoint_utils.load_model_ensemble_and_task([str(path)], task=task)


@pytest.mark.parametrize(("name", "kind"), crossed(CASES))
def test_code_in_an_option_is_refused_by_the_hub(workspace, tmp_path, name, kind):
    setup, (stock, twin, hostile) = SETUPS[setup_of(name)], MODELS[name]
    match = f"option {list(hostile)[-1]}.*pathlib"
    data = str(workspace.root / setup.data)
    path = write(workspace, tmp_path, name, kind)
    with pytest.raises(ValueError, match=match):
        MODEL_REGISTRY["el_" + twin].from_pretrained(str(path.parent), path.name, data)
    # A checkpoint of an `el_` task is refused by every class.
    path = write(workspace, tmp_path, name, kind, "el_" + setup.task)
    for loader in (stock, MODEL_REGISTRY["el_" + twin]):
        with pytest.raises(ValueError, match=match):
            loader.from_pretrained(str(path.parent), path.name, data)


@pytest.mark.parametrize("name", ["transformer", "bart"])
def test_the_hub_of_a_twin_loads_and_converts(workspace, name):
    setup, (stock, twin, _) = SETUPS[setup_of(name)], MODELS[name]
    path, data = Path(workspace.checkpoint(name)), str(workspace.root / setup.data)
    extra = {"bpe": "characters"} if name == "bart" else {}
    loaded = [
        kind.from_pretrained(str(path.parent), path.name, data, **extra).eval()
        for kind in (stock, MODEL_REGISTRY["el_" + twin])
    ]
    assert type(loaded[1].models[0].decoder).__name__.startswith("EL")
    words = [
        hub.src_dict.encode_line("s1 s2 s7" if name != "bart" else "w1 w2").long() for hub in loaded
    ]
    stocks, ours = (
        hub.generate([tokens], beam=2)[0] for hub, tokens in zip(loaded, words, strict=True)
    )
    assert [h["tokens"].tolist() for h in stocks] == [h["tokens"].tolist() for h in ours]


def test_code_in_an_option_of_a_task_is_refused(workspace, tmp_path):
    arguments = argparse.Namespace(task="el_translation_multi_simple_epoch", left_pad_source=CODE)
    with pytest.raises(ValueError, match="option left_pad_source"):
        tasks.setup_task(arguments)


def test_modules_classes_and_files_of_a_configuration_are_not_followed(workspace, tmp_path):
    plugin = tmp_path / "hostile_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(CODE)
    state = torch.load(workspace.checkpoint("transformer"))
    state["cfg"]["common"]["user_dir"] = str(plugin)
    target = {"_target_": "pathlib.Path.touch", "_args_": [str(MARKER)]}
    os.mkfifo(tmp_path / "pipe")  # who reads it waits
    for section in ("model", "task", "common"):
        holder = state["cfg"][section]
        values = {"_target_": "os.system", "something": target, "user_dir": str(plugin)}
        values |= {"encoder_embed_path": str(tmp_path / "pipe")}
        values |= {"decoder_embed_path": str(tmp_path / "pipe")}
        (holder if isinstance(holder, dict) else vars(holder)).update(values)
    torch.save(state, tmp_path / "checkpoint.pt")
    paths = ["--path", str(tmp_path / "checkpoint.pt")]
    lines = run(
        "generate", *workspace.generation("translation", "transformer", *paths, plan="auto")
    )
    assert sum(line[0] == "H" for line in lines) == 13


CONTENT: list[tuple[str, Any, bool]] = [
    ("adaptive_softmax_cutoff", "4,8", True),
    ("adaptive_softmax_cutoff", "[4, 8]", True),
    ("adaptive_softmax_cutoff", " (4, 8)", True),
    ("adaptive_softmax_cutoff", "4", True),
    ("adaptive_softmax_cutoff", [4, 8], True),
    ("adaptive_softmax_cutoff", None, True),
    ("adaptive_softmax_cutoff", "", False),
    ("adaptive_softmax_cutoff", "{4: 8}", False),
    ("adaptive_softmax_cutoff", "4,'a'", False),
    ("adaptive_softmax_cutoff", "set()", False),
    ("adaptive_softmax_cutoff", "[4]*10**9", False),
    ("adaptive_softmax_cutoff", "[i for i in (4, 8)]", False),
    ("adaptive_softmax_cutoff", "(a := 4)", False),
    ("adaptive_softmax_cutoff", "f'{exit()}'", False),
    ("adaptive_softmax_cutoff", "-" * 9000 + "1", False),
    ("adaptive_softmax_cutoff", "(" * 9000, False),
    ("adaptive_softmax_cutoff", "1," * 9000, False),
    ("adaptive_softmax_cutoff", CODE.encode(), False),
    ("adaptive_softmax_cutoff", bytearray(CODE.encode()), False),
    ("character_filters", "[(1, 64), (2, 128)]", True),
    ("character_filters", "dict", False),
    ("encoder_layers", 6, True),
    ("encoder_layers", "6", True),
    ("encoder_layers", "[(512, 3)] * 20", True),
    ("conv_feature_layers", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)]", True),
    ("conv_feature_layers", "[(512, 3)] * 20 * 20 * 20", False),
    ("conv_feature_layers", "[exit()] * 2", False),
    ("decoder_attention", "[True] + [False] * 3", True),
    ("left_pad_source", "False", True),
    ("left_pad_source", "exit()", False),
    ("xformers_att_config", "{'name': 'linformer'}", True),
    ("decoder_xformers_att_config", {"name": "linformer"}, True),
    ("decoder_xformers_att_config", "dict(name='linformer')", False),
]


@pytest.mark.parametrize(("name", "value", "accepted"), CONTENT, ids=range(len(CONTENT)))
def test_what_is_a_literal_of_its_kind(name, value, accepted):
    holders = [argparse.Namespace(**{name: value}), {name: value}, [{"a": {name: value}}]]
    if not isinstance(value, (bytes, bytearray)):
        holders.append(OmegaConf.create({"a": [{name: value}]}))
    for holder in holders:
        if accepted:
            require_literals(holder)
        else:
            with pytest.raises(ValueError, match=f"option {name}"):
                require_literals(holder)


@pytest.mark.parametrize("text", ["${evil}", "4,${evil}", "{'a': '${evil}'}", "'${evil}'"])
def test_options_that_refer_to_others_are_refused(text):
    for name in EVALUATED:
        with pytest.raises(ValueError, match=f"option {name}"):
            require_literals(OmegaConf.create({"evil": CODE, "model": {name: text}}).model)
    config = OmegaConf.create({"evil": {"wer_args": CODE}, "model": {"decoder": "${evil}"}})
    with pytest.raises(ValueError, match="option wer_args"):
        require_literals(config.model)


def test_options_are_found_wherever_they_are():
    choose = random.Random(1)
    for _ in range(300):
        name, text = (
            choose.choice(list(EVALUATED)),
            choose.choice([CODE, "exit()", "a", "1 if 1 else 2"]),
        )
        holder: Any = {name: text}
        for _ in range(choose.randrange(6)):
            kind, other = choose.randrange(5), {"x": 1, "y": None, "z": "relu"}
            if kind == 0:
                holder = argparse.Namespace(**other, inner=holder)
            elif kind == 1:
                holder = [*other, holder]
            elif kind == 2:
                holder = {**other, "inner": (holder,)}
            elif kind == 3:
                holder = OmegaConf.create({"inner": holder}, flags={"allow_objects": True})
            else:
                holder = argparse.Namespace(inner=holder)
                holder.again = holder
        with pytest.raises(ValueError, match=f"option {name}"):
            require_literals(holder)


# Evaluated when training sets up an optimizer or data sets of speech, of the command line only.
OF_TRAINING = {"adam_betas", "adamax_betas", "adafactor_eps", "lamb_betas"}


def test_every_option_that_fairseq_evaluates_is_known():
    functions, found = {"eval", "eval_str_list", "eval_str_dict", "eval_bool"}, set()
    root = Path(fairseq.__file__).parent
    for path in root.rglob("*.py"):
        if path.is_relative_to(root / "examples"):
            continue  # never imported
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called, (argument, *_) = node.func, node.args
            name = getattr(called, "id", getattr(called, "attr", None))
            if name in functions and isinstance(argument, ast.Attribute):
                found.add(argument.attr)
    assert {"adaptive_softmax_cutoff", "character_filters", "left_pad_source"} <= found
    assert found - OF_TRAINING <= EVALUATED.keys()
    assert EVALUATED.keys() - found == {
        # Given to attention by its caller.
        *("xformers_att_config", "encoder_xformers_att_config", "decoder_xformers_att_config"),
    }
