"""Training an `el_` model is training the original: losses, gradients, BLEU, checkpoints."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, models
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion

import el_attention
from clidata import run
from tiny import TinyTask, batch, build, dictionary, prompts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def training_step(model: Any, symbols: Any, seed: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step in training mode."""
    model.train()
    sample = batch(symbols, [7, 3, 5, 1])
    target = prompts(symbols, [4, 6, 2, 5])
    net_input = sample["net_input"]
    if not hasattr(model, "encoder"):
        net_input.clear()
        net_input["src_tokens"] = target
    else:
        net_input["prev_output_tokens"] = target.roll(1, 1)
    criterion = LabelSmoothedCrossEntropyCriterion(TinyTask(symbols), True, 0.1)
    torch.manual_seed(seed)
    loss, _, _ = criterion(model, {**sample, "target": target, "ntokens": 17})
    loss.backward()
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), gradients


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("transformer", {}),
        ("transformer", {"decoder_layerdrop": 0.5, "encoder_layerdrop": 0.5}),
        ("transformer", {"quant_noise_pq": 0.3, "quant_noise_pq_block_size": 4}),
        ("transformer_align", {"alignment_layer": 1, "share_decoder_input_output_embed": True}),
        ("bart_base", {"share_all_embeddings": True}),
        ("mbart_base", {}),
        ("transformer_lm_gpt2_tiny", {}),
        ("transformer_lm", {"decoder_normalize_before": True, "activation_fn": "gelu"}),
    ],
)
@pytest.mark.parametrize("converted", [False, True])
def test_losses_and_gradients_are_the_originals(architecture, options, converted):
    symbols = dictionary()
    original = build(architecture, symbols, seed=4, **options)
    if converted:
        twin = el_attention.convert(build(architecture, symbols, seed=4, **options))
    else:
        twin = build(f"el_{architecture}", symbols, seed=4, **options)
    for seed in range(3):
        stock_loss, stock_gradients = training_step(original, symbols, seed)
        loss, gradients = training_step(twin, symbols, seed)
        assert loss == stock_loss
        assert gradients.keys() == stock_gradients.keys()
        for name, gradient in gradients.items():
            assert torch.equal(gradient, stock_gradients[name]), name
    assert stock_gradients


def test_building_a_twin_draws_no_random_numbers_of_its_own():
    symbols = dictionary()
    states = []
    for architecture in ("transformer", "el_transformer"):
        args = Namespace(
            arch=architecture,
            encoder_layers=2,
            decoder_layers=4,
            encoder_embed_dim=8,
            decoder_embed_dim=8,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_layerdrop=0.5,
            decoder_layerdrop=0.5,
        )
        models.ARCH_CONFIG_REGISTRY[architecture](args)
        torch.manual_seed(5)
        models.build_model(args, TinyTask(symbols))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


BLEU = [
    *("--eval-bleu", "--eval-bleu-args", json.dumps({"beam": 3, "max_len_b": 12})),
    *("--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"),
    *("--log-format", "json", "--log-interval", "2", "--max-tokens-valid", "60"),
]


def train(workspace, folder: Path, caplog: Any, prefix: str, *options: str) -> list[dict[str, str]]:
    """Runs fairseq-train with generation in validation; returns what it logs, but times."""
    arguments = workspace.training("transformer")
    arguments.remove("--disable-validation")
    for name in ("--task", "--arch"):
        arguments[arguments.index(name) + 1] = prefix + arguments[arguments.index(name) + 1]
    caplog.clear()
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # fairseq keeps it between runs
    with caplog.at_level(logging.INFO):
        run("train", *arguments, *BLEU, "--save-dir", str(folder), *options)
    times = ("wps", "ups", "wall", "train_wall", "gb_free")
    return [
        {key: value for key, value in json.loads(record.message).items() if not key.endswith(times)}
        for record in caplog.records
        if record.name in ("train", "train_inner", "valid") and record.message.startswith("{")
    ]


def test_fairseq_train_gives_the_same_losses_bleu_and_parameters(workspace, tmp_path, caplog):
    stock, ours = [], []
    for updates in ("6", "12"):  # the second run resumes the first
        options = ["--max-update", updates]
        stock += train(workspace, tmp_path / "stock", caplog, "", *options)
        ours += train(workspace, tmp_path / "el", caplog, "el_", *options)
    assert ours == stock
    assert any("loss" in entry for entry in stock)
    bleus = [float(entry["valid_bleu"]) for entry in stock if "valid_bleu" in entry]
    assert len(bleus) > 1
    assert max(bleus) > 0
    checkpoints = [torch.load(tmp_path / name / "checkpoint_last.pt") for name in ("stock", "el")]
    one, other = (checkpoint["model"] for checkpoint in checkpoints)
    assert one.keys() == other.keys()
    for name in one:
        if not name.endswith("_float_tensor"):  # fairseq leaves it uninitialized
            assert torch.equal(one[name], other[name]), name
    # What was trained with either task generates with the other.
    for name in ("stock", "el"):
        options = ["--path", str(tmp_path / name / "checkpoint_best.pt")]
        outputs = [
            run("generate", *workspace.generation("translation", "transformer", *options, plan=p))
            for p in (None, "shared-projection")
        ]
        assert [line.split("\t")[-1] for line in outputs[0] if line[0] == "H"] == [
            line.split("\t")[-1] for line in outputs[1] if line[0] == "H"
        ]
        assert len(outputs[0]) == 66


@pytest.mark.parametrize(("first", "second"), [("", "el_"), ("el_", "")])
def test_either_task_resumes_what_the_other_began(workspace, tmp_path, caplog, first, second):
    train(workspace, tmp_path, caplog, first, "--max-update", "4")
    log = train(workspace, tmp_path, caplog, second, "--max-update", "8")
    updates = [int(entry["valid_num_updates"]) for entry in log if "valid_num_updates" in entry]
    assert updates
    assert min(updates) > 4
