"""Checkpoints between fairseq and Transformers: the same numbers, the same hypotheses."""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, models, utils
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerConfig

import el_attention
from crossed import crossed
from el_attention import cli
from el_attention.exchange import convert_checkpoint, gpt2_rules, to_fairseq, to_transformers
from el_attention.exchange.convert import save_checkpoint
from el_attention.exchange.options import classified
from tiny import generator_of

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

WORDS, POSITIONS = 23, 30
SIZES = {"embed_dim": 12, "ffn_embed_dim": 14, "layers": 2}
BART: dict[str, Any] = {
    "arch": "bart_base",
    "task": "translation",
    "source_lang": "xx",
    "target_lang": "yy",
    **{f"encoder_{name}": value for name, value in SIZES.items()},
    **{f"decoder_{name}": value for name, value in SIZES.items()},
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_embed_dim": 10,
    "max_source_positions": POSITIONS,
    "max_target_positions": POSITIONS,
    "activation_fn": "relu",
}
LM: dict[str, Any] = {
    "arch": "transformer_lm_gpt",
    "task": "language_modeling",
    **{f"decoder_{name}": value for name, value in SIZES.items()},
    "decoder_input_dim": 12,
    "decoder_output_dim": 12,
    "decoder_attention_heads": 3,
    "decoder_learned_pos": True,
    "no_scale_embedding": True,
    "share_decoder_input_output_embed": True,
    "activation_fn": "gelu_accurate",
    "tokens_per_sample": POSITIONS,
    "max_target_positions": POSITIONS,
}
CASES: dict[str, dict[str, Any]] = {
    "bart": BART,
    "bart, scaled": {**BART, "no_scale_embedding": False, "activation_fn": "gelu_accurate"},
    "language model": LM,
    "language model, relu": {**LM, "activation_fn": "relu", "decoder_layers": 1},
}


def write(folder: Path, **options: Any) -> Path:
    """A random checkpoint of fairseq with its dictionary."""
    folder.mkdir(exist_ok=True)
    symbols = Dictionary()
    for number in range(WORDS - symbols.nspecial):
        symbols.add_symbol(f"w{number}")
    symbols.save(str(folder / "dict.txt"))
    args = Namespace(**options)
    models.ARCH_CONFIG_REGISTRY[args.arch](args)
    torch.manual_seed(0)
    task: Any = Namespace(source_dictionary=symbols, target_dictionary=symbols)
    network = models.build_model(args, task)
    weights = network.state_dict()
    for name, weight in weights.items():
        if weight.numel() > 1 and "version" not in name:
            weight.add_(0.3 * torch.randn_like(weight))
    table = weights["decoder.embed_tokens.weight"]
    for name in ("encoder.embed_tokens.weight", "decoder.output_projection.weight"):
        if name in weights:
            weights[name] = table
    if options["task"] == "language_modeling":
        weights["decoder.embed_positions.weight"][:2] = 0  # of no token
    kept = {x: weights[x] for x in weights if x not in ("encoder.version", "decoder.version")}
    save_checkpoint(args, kept, folder / "model.pt")
    return folder / "model.pt"


def load(path: Path, data: Path | None = None) -> tuple[Any, Any]:
    """A model of fairseq in float64, and its dictionary."""
    folder = data or path.parent
    for name in ("xx", "yy"):
        (folder / f"dict.{name}.txt").write_bytes((folder / "dict.txt").read_bytes())
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(path)], arg_overrides={"data": str(folder)}
    )
    return model.double().eval(), task.target_dictionary


def of_transformers(folder: Path) -> Any:
    kind = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float64)
    return model.eval()


def tokens(length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(4, WORDS, (3, length), generator=generator)


@torch.no_grad()
def logits_of(ours: Any, theirs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of fairseq's model and of that of Transformers, for the same tokens."""
    if theirs.config.is_encoder_decoder:
        source, target = tokens(9), tokens(6)
        mine, _ = ours(source, torch.full((3,), 9), target)
        return mine, theirs(input_ids=source, decoder_input_ids=target).logits
    return ours(tokens())[0], theirs(input_ids=tokens()).logits


@pytest.mark.parametrize("name", crossed(CASES))
def test_both_ways_keep_every_bit_and_the_logits(name, tmp_path, monkeypatch) -> None:
    # fairseq's is in float32, whatever the model is.
    monkeypatch.setattr(utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    path = write(tmp_path / "fairseq", **CASES[name])
    line = convert_checkpoint(path, tmp_path / "transformers")
    assert line.startswith(f"{tmp_path / 'transformers'}: ") and " parameters, " in line
    ours, theirs = load(path)[0], of_transformers(tmp_path / "transformers")
    mine, others = logits_of(ours, theirs)
    assert others.std() > 0.5
    torch.testing.assert_close(mine, others, rtol=1e-12, atol=1e-12)

    convert_checkpoint(tmp_path / "transformers", tmp_path / "back")
    states = [torch.load(p)["model"] for p in (path, tmp_path / "back" / "model.pt")]
    assert states[0].keys() == states[1].keys()
    for parameter, value in states[0].items():
        assert torch.equal(value, states[1][parameter]), parameter
    assert (tmp_path / "back" / "dict.txt").read_bytes() == (path.parent / "dict.txt").read_bytes()
    again, _ = load(tmp_path / "back" / "model.pt")
    assert torch.equal(mine, logits_of(again, theirs)[0])

    convert_checkpoint(tmp_path / "back" / "model.pt", tmp_path / "again")
    state = theirs.state_dict()
    for parameter, value in of_transformers(tmp_path / "again").state_dict().items():
        assert torch.equal(value, state[parameter]), parameter


def test_half_precision_stays_what_it_is(tmp_path) -> None:
    path = write(tmp_path / "fairseq", **LM)
    checkpoint = torch.load(path)
    checkpoint["model"] = {name: value.half() for name, value in checkpoint["model"].items()}
    torch.save(checkpoint, path)
    convert_checkpoint(path, tmp_path / "transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "transformers", dtype="auto")
    assert model.dtype == torch.float16
    expected = checkpoint["model"]["decoder.layers.0.fc1.weight"].t()
    assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, expected)


_Processor: Any = transformers.LogitsProcessor


class EndOnly(_Processor):
    """Lets the last token be an end, with its own score, as fairseq does."""

    def __init__(self, new_tokens: int) -> None:
        self.left = new_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            scores[:, torch.arange(scores.size(1)) != 2] = -torch.inf
        return scores


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("name", ["bart", "language model"])
def test_both_front_ends_generate_the_same(name, beam, tmp_path) -> None:
    path = write(tmp_path / "fairseq", **CASES[name])
    convert_checkpoint(path, tmp_path / "transformers")
    (ours, symbols), theirs = load(path), of_transformers(tmp_path / "transformers")
    sources = tokens()
    sources[:, 0 if name != "bart" else -1] = symbols.eos()
    sample = {"net_input": {"src_tokens": sources, "src_lengths": torch.full((3,), 9)}}
    longest = {"max_len_a": 0, "max_len_b": 8 if name == "bart" else 9 + 7}
    # fairseq counts the prompt in the length that it divides scores by.
    penalty = 1.0 if name == "bart" else 0.0
    generator = generator_of([ours], symbols, {"beam": beam, "lenpen": penalty, **longest})
    prefix = None if name == "bart" else sources[:, 1:]
    expected = [
        [[*map(int, hypothesis["tokens"])] for hypothesis in hypotheses[:1]]
        for hypotheses in generator.generate([ours], sample, prefix_tokens=prefix)
    ]
    for convert in (False, True):
        model = el_attention.convert(theirs) if convert else theirs
        found = model.generate(
            input_ids=sources,
            attention_mask=torch.ones_like(sources),
            num_beams=beam,
            max_new_tokens=9,
            early_stopping=beam > 1,
            length_penalty=penalty,
            logits_processor=[EndOnly(9)],
        )
        for row, (hypothesis,) in zip(found.tolist(), expected, strict=True):
            kept = row[1:]
            assert kept[: len(hypothesis)] == hypothesis
            assert set(kept[len(hypothesis) :]) <= {1}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pre-norm": (
        {**BART, "encoder_normalize_before": True},
        "encoder_normalize_before: expected F",
    ),
    "sinusoidal": ({**BART, "decoder_learned_pos": False}, "decoder_learned_pos: expected True"),
    "no norm of embeddings": ({**BART, "layernorm_embedding": False}, "layernorm_embedding: exp"),
    "activation": ({**BART, "activation_fn": "tanh"}, "activation_fn: expected one of .*'tanh'"),
    "positions": ({**BART, "max_source_positions": 20}, "max_source_positions"),
    "untied": ({**LM, "share_decoder_input_output_embed": False}, "share_decoder_input_output"),
    "no final norm": ({**LM, "no_decoder_final_norm": True}, "no_decoder_final_norm"),
    "another model": (
        {**BART, "arch": "transformer", "share_all_embeddings": True},
        "expected a BARTModel or a TransformerLanguageModel of fairseq, got a TransformerModel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_without_counterpart_are_refused_by_name(name, tmp_path) -> None:
    options, message = REFUSED[name]
    path = write(tmp_path / "fairseq", **options)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(path, tmp_path / "transformers")
    assert not (tmp_path / "transformers").exists()


SETTINGS: dict[str, tuple[str, Any]] = {
    "bart": ("activation_function", "silu"),
    "bart, scaled": ("decoder_start_token_id", 0),
    "language model": ("layer_norm_epsilon", 1e-6),
    "language model, relu": ("scale_attn_by_inverse_layer_idx", True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_without_counterpart_are_refused_by_name(name, tmp_path) -> None:
    path = write(tmp_path / "fairseq", **CASES[name])
    convert_checkpoint(path, tmp_path / "transformers")
    setting, value = SETTINGS[name]
    model = of_transformers(tmp_path / "transformers").float()
    setattr(model.config, setting, value)
    model.config.save_pretrained(tmp_path / "transformers")
    with pytest.raises(ValueError, match=f"{setting}: expected"):
        convert_checkpoint(tmp_path / "transformers", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_bias_on_logits_is_refused(tmp_path) -> None:
    convert_checkpoint(write(tmp_path / "fairseq", **BART), tmp_path / "transformers")
    model = of_transformers(tmp_path / "transformers").float()
    model.final_logits_bias[0, 7] = 1
    model.save_pretrained(tmp_path / "transformers")
    with pytest.raises(ValueError, match="final_logits_bias: expected zeros"):
        convert_checkpoint(tmp_path / "transformers", tmp_path / "back")


def test_every_option_of_fairseq_is_known() -> None:
    def names(config: Any, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                found |= names(value, f"{prefix}{field.name}.")
            elif field.name != "_name":
                found.add(f"{prefix}{field.name}")
        return found

    known = classified()
    every = names(TransformerConfig())
    decoder = {name for name in every if not name.startswith("encoder.")}
    passed = known["taken"] | known["of training"]
    assert every - passed - known["required of BART"] == {"share_decoder_input_output_embed"}
    assert (
        decoder - passed - known["required of language models"]
        == {
            "max_source_positions",
            "merge_src_tgt_embed",
            "no_cross_attention",
            "share_all_embeddings",
        }
        - passed
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("decoder.layers.1.fc2.bias"),
            "without decoder.layers.1.fc2.bias, got noth",
        ),
        (lambda w: w.update(more=torch.ones(1)), "without nothing, got more in addition"),
        (
            lambda w: w.update({"decoder.output_projection.weight": torch.ones(WORDS, 12)}),
            "decoder.embed_tokens.weight and decoder.output_projection.weight to be one",
        ),
    ],
)
def test_every_parameter_is_used_once(change, message, tmp_path) -> None:
    path = write(tmp_path, **LM)
    state = torch.load(path)["model"]
    del state["decoder.version"]
    rules = gpt2_rules(2)
    found = to_transformers(rules, state)
    assert all(torch.equal(state[k], v) for k, v in to_fairseq(rules, found).items())
    change(state)
    with pytest.raises(ValueError, match=message):
        to_transformers(rules, state)


def test_the_command_converts_and_refuses(tmp_path, capsys) -> None:
    path = write(tmp_path / "fairseq", **BART)
    arguments = ["convert-checkpoint", str(path), str(tmp_path / "transformers")]
    assert cli.main(arguments) == 0
    assert "BartForConditionalGeneration" in capsys.readouterr().out
    (tmp_path / "short.txt").write_text("w0 1\n")
    other = [*arguments[:2], str(tmp_path / "other")]
    for wrong, message in (
        (arguments, "expected a new folder, there is one already"),
        ([*other, "--dictionary", str(tmp_path / "no.txt")], "got no such file"),
        ([*other, "--dictionary", str(tmp_path / "short.txt")], "expected 23 words, .* got 5"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(wrong)
        assert stop.value.code == 2
        assert re.search(message, capsys.readouterr().err)
