"""Conversion of Hugging Face GPT-2 weights to fairseq, against Transformers itself."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary

import el_attention
import exampledata
from common.acquire import DataError
from common.pieces import load_bpe
from summarization_gpt2 import convert

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def transformers():
    # fairseq-fixed installs torchaudio, which fails to load beside another version of torch;
    # without it Transformers does without.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", None)
        yield pytest.importorskip("transformers", reason="of the extra `test`")


def load(folder):
    """The converted model in float64, and its task."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(folder / "model.pt")], arg_overrides={"data": str(folder)}
    )
    return models[0].eval().double(), task


def random_tokens(symbols: int, rows: int, length: int) -> torch.Tensor:
    """Tokens of fairseq's dictionary, </s> first."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, symbols, (rows, length), generator=generator)
    tokens[:, 0] = 2
    return tokens


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        ({}, 1e-12),
        # fairseq's exact gelu computes in float32 whatever the model does; GPT-2 has gelu_new.
        ({"activation_function": "gelu"}, 1e-5),
        ({"activation_function": "relu", "n_inner": 40}, 1e-12),
        ({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 48}, 1e-12),
    ],
    ids=str,
)
def test_logits_are_those_of_transformers(transformers, config, tolerance, tmp_path):
    exampledata.write_gpt2(tmp_path, **config)
    convert.convert(tmp_path, tmp_path / "fairseq")
    ours, task = load(tmp_path / "fairseq")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    order = torch.tensor(convert.token_order(vocabulary))
    tokens = random_tokens(len(task.target_dictionary), rows=3, length=48)
    with torch.no_grad():
        expected = theirs(order[tokens]).logits[..., order]
        logits, _ = ours(tokens)
        converted, _ = el_attention.convert(ours)(tokens)
    assert expected.std() > 1
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(converted, expected, rtol=tolerance, atol=tolerance)


def test_weights_that_transformers_saves_are_read(transformers, tmp_path):
    config = transformers.GPT2Config(**exampledata.GPT2_CONFIG)
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    exampledata.write_bpe(tmp_path, "vocab.json", "merges.txt")
    theirs.float().save_pretrained(tmp_path)
    convert.convert(tmp_path, tmp_path / "fairseq")
    ours, task = load(tmp_path / "fairseq")
    order = torch.tensor(convert.token_order(exampledata.bpe_vocabulary()))
    tokens = random_tokens(len(task.target_dictionary), rows=2, length=20)
    with torch.no_grad():
        expected = theirs.double()(order[tokens]).logits[..., order]
        torch.testing.assert_close(ours(tokens)[0], expected, rtol=1e-12, atol=1e-12)


def test_pieces_are_those_of_transformers(transformers, tmp_path):
    exampledata.write_gpt2(tmp_path)
    convert.convert(tmp_path, tmp_path / "fairseq")
    tokenizer = transformers.GPT2TokenizerFast(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt")
    )
    bpe = load_bpe(tmp_path / "fairseq")
    for text in ("The baker's café, in 2026:\n\n  the end.", "日本 ß", " there"):
        assert bpe.encode(text) == tokenizer(text)["input_ids"]
        assert bpe.decode(bpe.encode(text)) == text


def test_dictionary_has_exactly_the_tokens_of_gpt2(tmp_path):
    exampledata.write_gpt2(tmp_path)
    convert.convert(tmp_path, tmp_path / "fairseq")
    symbols = Dictionary.load(str(tmp_path / "fairseq" / "dict.txt"))
    vocabulary = exampledata.bpe_vocabulary()
    order = convert.token_order(vocabulary)
    assert len(symbols) == len(vocabulary)
    assert sorted(order) == sorted(vocabulary.values())
    assert [int(symbol) for symbol in symbols.symbols[4:]] == order[4:]
    assert order[symbols.eos()] == vocabulary["<|endoftext|>"]
    # What the other special symbols replace is never in a text: no UTF-8 begins or goes on so.
    for index in (symbols.bos(), symbols.pad(), symbols.unk()):
        (character,) = (token for token, number in vocabulary.items() if number == order[index])
        with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
            character.encode("latin-1").decode("utf-8")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "opt"}, "model_type is 'opt'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"activation_function": "silu"}, "activation_function is 'silu'"),
    ],
)
def test_models_that_fairseq_cannot_compute_are_refused(config, message, tmp_path):
    exampledata.write_gpt2(tmp_path, **config)
    with pytest.raises(DataError, match=message):
        convert.convert(tmp_path, tmp_path / "fairseq")


def without(name):
    return lambda weights: {n: weight for n, weight in weights.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("h.1.mlp.c_fc.bias"), r"without transformer\.h\.1\.mlp\.c_fc\.bias, got"),
        (without("h.1.ln_1.weight"), r"without transformer\.h\.1\.ln_1\.weight, got"),
        (
            lambda weights: weights | {"adapter": torch.ones(1)},
            r"got transformer\.adapter in addition",
        ),
        (lambda weights: weights | {"wte.weight": torch.ones(5, 24)}, "tokens, .* 5"),
        (lambda weights: weights | {"lm_head.weight": torch.ones(1)}, "not tied"),
    ],
)
def test_other_weights_than_those_of_a_gpt2_are_refused(change, message):
    weights = change(exampledata.gpt2_weights(exampledata.GPT2_CONFIG))
    order = convert.token_order(exampledata.bpe_vocabulary())
    with pytest.raises(DataError, match=message):
        convert.convert_weights(weights, order)


def test_a_configuration_of_other_layers_than_the_weights_is_refused(tmp_path):
    exampledata.write_gpt2(tmp_path)
    config = json.dumps(exampledata.GPT2_CONFIG | {"n_layer": 4})
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(DataError, match="4 layers, the weights have 3"):
        convert.convert(tmp_path, tmp_path / "fairseq")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"a": 0, "b": 2}, "not 0, 1, 2"),
        ({"a": 0, "<|endoftext|>": 1}, "not the vocabulary of GPT-2"),
    ],
)
def test_other_vocabularies_are_refused(vocabulary, message):
    with pytest.raises(DataError, match=message):
        convert.token_order(vocabulary)
