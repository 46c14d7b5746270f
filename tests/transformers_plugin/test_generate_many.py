"""Many texts at once: what each gets alone, in order, whatever happens to the run."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import el_attention
from faults import Memory

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")
if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip("runs are served from Transformers 5.0 on", allow_module_level=True)

from transformers.generation import GenerationMixin  # noqa: E402

from crossed import crossed  # noqa: E402
from el_attention.robust.random_numbers import seed_of  # noqa: E402
from el_attention.transformers_plugin.batches import Batches  # noqa: E402
from el_attention.transformers_plugin.generate_many import generate_many  # noqa: E402
from el_attention.transformers_plugin.options import Options  # noqa: E402
from manytexts import ENDS, TEXTS, model_of, tokenizer_of  # noqa: E402

NAMES = ["bart", "m2m_100", "t5", "gpt2", "opt"]
# What is asked of generate, and how texts are put into batches: by length alone, only those of one
# length, or each alone.
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12},
    "beams": {"num_beams": 3, "max_new_tokens": 12, "output_scores": True},
    "several": {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 9},
    "early": {"num_beams": 3, "early_stopping": True, "length_penalty": -1.0, "max_new_tokens": 9},
    "never early": {"num_beams": 2, "early_stopping": "never", "max_new_tokens": 9},
    "longest": {"num_beams": 2, "max_length": 17},
    "shortest": {"num_beams": 2, "max_length": 17, "min_length": 11},
    "n-grams": {"num_beams": 3, "max_new_tokens": 9, "no_repeat_ngram_size": 1},
    "penalties": {"max_new_tokens": 9, "repetition_penalty": 1.7},
    "source": {"max_new_tokens": 9, "encoder_repetition_penalty": 1.9},
    "source n-grams": {"max_new_tokens": 9, "encoder_no_repeat_ngram_size": 1},
    "forced": {"max_new_tokens": 9, "forced_bos_token_id": 5, "forced_eos_token_id": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 9, "top_k": 7},
    "sampled beams": {"do_sample": True, "num_beams": 3, "max_new_tokens": 9},
    "default": {},
}


def alone(model: Any, tokenizer: Any, text: str, place: int, **options: Any) -> Any:
    """What `generate` returns for one text: tokens and scores of its hypotheses."""
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    torch.manual_seed(seed_of(0, place))
    output = model.generate(**inputs, **options, return_dict_in_generate=True)
    prompt = 0 if model.config.is_encoder_decoder else inputs["input_ids"].size(1)
    found = [ended(model, row[prompt:].tolist()) for row in output.sequences]
    scores = output.get("sequences_scores")
    return found, None if scores is None else scores.tolist()


def ended(model: Any, tokens: list[int]) -> tuple[int, ...]:
    """Hypotheses of one text are padded to one length."""
    begin = 1 if model.config.is_encoder_decoder else 0
    last = next((i for i in range(begin, len(tokens)) if tokens[i] in ENDS), len(tokens))
    return tuple(tokens[: last + 1])


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    ("name", "converted", "options"),
    crossed([*((name, True) for name in NAMES), ("bart", False), ("gpt2", False)], OPTIONS),
)
def test_every_text_gets_what_it_gets_alone(name, converted, options) -> None:
    model, tokenizer = model_of(name), tokenizer_of(name)
    expected = [
        alone(model, tokenizer, text, place, **OPTIONS[options]) for place, text in enumerate(TEXTS)
    ]
    if converted:
        el_attention.convert(model)
    found = el_attention.generate_many(
        model, tokenizer, iter(TEXTS), progress=False, **OPTIONS[options]
    )
    assert len({result.tokens for result in found}) > len(TEXTS) / 2
    for result, (tokens, scores) in zip(found, expected, strict=True):
        assert result.reason is None
        assert list(result.tokens) == tokens
        assert result.texts == tuple(tokenizer.decode(x, skip_special_tokens=True) for x in tokens)
        assert result.text == result.texts[0]
        assert (result.scores is None) == (scores is None)
        if scores is not None:
            assert result.scores == pytest.approx(scores, abs=1e-5)


@pytest.fixture
def batches(monkeypatch) -> list[list[int]]:
    """The lengths of the texts in each batch that is generated in the test."""
    seen: list[list[int]] = []
    generate = GenerationMixin.generate

    def watched(self: Any, **given: Any) -> Any:
        seen.append(given["attention_mask"].sum(1).tolist())
        return generate(self, **given)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    return seen


def test_batches_are_of_similar_length_and_no_larger_than_asked_for(batches) -> None:
    options: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 3, "progress": False}
    generate_many(model_of("bart"), tokenizer_of("bart"), TEXTS, **options)
    assert [len(lengths) for lengths in batches] == [4, 4, 1]
    flat = [length for lengths in batches for length in lengths]
    assert flat == sorted(flat, reverse=True) and len(set(flat)) > 5


@pytest.mark.parametrize("converted", [True, False])
def test_batches_fill_the_memory(converted, batches) -> None:
    model = model_of("bart")
    if converted:
        el_attention.convert(model)

    def largest(length: int, budget: int, **more: Any) -> int:
        options = Options(model, {"num_beams": 2, "max_new_tokens": 5, **more})
        return Batches(model, options, None, budget, lambda length: length).largest(length)

    budgets = range(10_000, 2_000_000, 10_000)
    three = next(budget for budget in budgets if largest(17, budget) == 3)
    assert largest(39, three) < 3 < largest(4, three)
    assert largest(17, three, output_scores=True) < 3
    options: dict[str, Any] = {
        "memory_budget": three,
        "num_beams": 2,
        "max_new_tokens": 5,
        "progress": False,
    }
    generate_many(model, tokenizer_of("bart"), TEXTS, **options)
    assert len(batches[0]) == 3 < len(batches[1])


@pytest.mark.parametrize(
    ("name", "options", "logged"),
    [
        (
            "gpt2",
            {"max_length": 17},
            "texts of one length share a batch, because max_length counts",
        ),
        ("bart", {"encoder_no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size counts the"),
        ("bart", {"do_sample": True}, "every text has a batch of its own, because do_sample draws"),
        ("bart", {"stop_strings": ["w3"]}, "because stop_strings"),
        ("bart", {"logits_processor": []}, "because logits_processor may depend on the other"),
    ],
)
def test_options_that_see_the_batch_make_smaller_batches(
    name, options, logged, monkeypatch, caplog
) -> None:
    with caplog.at_level(logging.INFO, logger="el_attention"):
        found = Options(model_of(name), options)
    assert logged in caplog.text
    assert (found.apart or found.one_length) is not None


@pytest.mark.parametrize(("name", "error"), [("bart", "CPU"), ("gpt2", "GPU")])
def test_a_batch_that_does_not_fit_is_halved(name, error, batches, caplog) -> None:
    model, tokenizer = el_attention.convert(model_of(name)), tokenizer_of(name)
    options: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 9, "progress": False}
    expected = generate_many(model, tokenizer, TEXTS, **options)
    del batches[:]
    with Memory(fail_at=700, error=error) as watched:
        found = generate_many(model, tokenizer, TEXTS, **options)
    assert watched.failures == 1
    assert found == expected
    assert [*map(len, batches)] == [9, 5, 4]
    assert "out of memory with 9 sentences (texts of" in caplog.text
    assert "trying 5 and 4 instead" in caplog.text


def test_a_text_that_does_not_fit_alone_does_not_end_the_run() -> None:
    model, tokenizer = el_attention.convert(model_of("bart")), tokenizer_of("bart")
    texts = ["w1 w2", " ".join(["w3"] * 35), "w4"]
    options: dict[str, Any] = {"max_new_tokens": 3, "progress": False}
    expected = generate_many(model, tokenizer, texts, **options)
    encoder = ("modeling_bart.py", "forward")
    with Memory(stage=encoder) as watched:
        generate_many(model, tokenizer, [texts[0], texts[2]], **options)
    with Memory(stage=encoder, limit=watched.largest):
        found = generate_many(model, tokenizer, texts, **options)
    assert [found[0], found[2]] == [expected[0], expected[2]]
    assert found[1].text is None
    assert str(found[1].reason).startswith("out of memory with this text alone: [enforce fail")


BAD: dict[str, tuple[Any, str]] = {
    "none": (None, "expected a text, got NoneType"),
    "number": (3, "expected a text, got int"),
    "bytes": (b"w1", "expected a text, got bytes"),
    "empty": ("", "it is empty: the tokenizer finds nothing in it"),
    "blank": (" \n\t ", "it is empty: the tokenizer finds nothing in it"),
    "broken": ("w1 \ud800", "the tokenizer cannot read it: "),
    "too long": ("w1 " * 60, "it is too long: 6"),
    "unknown": ("w1 later", "token 30 is none of the model's, which has 30"),
}


@pytest.mark.parametrize("name", ["bart", "gpt2"])
def test_bad_texts_get_a_reason_and_do_not_end_the_run(name) -> None:
    model, tokenizer = el_attention.convert(model_of(name)), tokenizer_of(name)
    tokenizer.add_tokens("later")
    texts = [text for bad, _ in BAD.values() for text in (bad, "w1 w2 w3")]
    found = generate_many(model, tokenizer, texts, num_beams=2, max_new_tokens=5, progress=False)
    good = found[1]
    assert good.text and good.reason is None
    for result, (_, reason) in zip(found[::2], BAD.values(), strict=True):
        assert (result.texts, result.tokens, result.scores) == ((), (), None)
        assert str(result.reason).startswith(reason)
    assert found[1::2] == [good] * len(BAD)
    assert generate_many(model, tokenizer, [], progress=False) == []


@pytest.mark.parametrize("name", ["bart", "gpt2"])
def test_long_texts_are_cut_where_that_is_asked_for(name) -> None:
    model, tokenizer = model_of(name), tokenizer_of(name)
    text = " ".join(f"w{number % 19}" for number in range(60))
    options: dict[str, Any] = {"max_new_tokens": 5, "progress": False}
    (kept,) = generate_many(model, tokenizer, [text], **options)
    assert kept.reason is not None
    (cut,) = generate_many(model, tokenizer, [text], truncation=True, **options)
    limit = 40 if name == "bart" else 36
    inputs = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    assert len(inputs) == limit
    output = model.generate(input_ids=torch.tensor([inputs]), max_new_tokens=5)
    assert cut.tokens[0] == ended(model, output[0].tolist()[0 if name == "bart" else limit :])


@pytest.mark.parametrize("options", ["beams", "sampling"])
def test_a_finished_run_is_read_from_its_journal(options, tmp_path, batches) -> None:
    model, tokenizer = el_attention.convert(model_of("bart")), tokenizer_of("bart")
    texts = [*TEXTS, TEXTS[0], None]
    arguments: dict[str, Any] = {
        "journal": tmp_path / "journal",
        "progress": False,
        **OPTIONS[options],
    }
    first = generate_many(model, tokenizer, texts, **arguments)
    del batches[:]
    assert generate_many(model, tokenizer, texts, **arguments) == first
    assert generate_many(model, tokenizer, texts[:3], batch_size=1, **arguments) == first[:3]
    assert not batches


KILLED = """
import os, signal, sys
sys.modules["fairseq"] = None
from transformers.generation import GenerationMixin
import el_attention
from manytexts import TEXTS, model_of, tokenizer_of

calls, generate = [], GenerationMixin.generate

def dying(self, **given):
    calls.append(given)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(self, **given)

GenerationMixin.generate = dying
model = el_attention.convert(model_of("bart"))
options = {"num_beams": 3, "max_new_tokens": 12, "batch_size": 2, "progress": False}
el_attention.generate_many(model, tokenizer_of("bart"), TEXTS, journal=sys.argv[1], **options)
"""


def test_a_killed_run_continues(tmp_path, batches) -> None:
    helpers = str(Path(__file__).parents[1] / "helpers")
    environment = {**os.environ, "PYTHONPATH": helpers, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "journal")]
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    model, tokenizer = el_attention.convert(model_of("bart")), tokenizer_of("bart")
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 12, "progress": False}
    expected = generate_many(model, tokenizer, TEXTS, **options)
    del batches[:]
    found = generate_many(model, tokenizer, TEXTS, journal=tmp_path / "journal", **options)
    assert found == expected
    assert [*map(len, batches)] == [len(TEXTS) - 3 * 2]


CHANGES: dict[str, tuple[Any, str]] = {
    "options": (lambda model, options: options.update(num_beams=3), "option: num_beams was '2'"),
    "another option": (lambda model, options: options.update(length_penalty=2.0), "length_penalty"),
    "seed": (lambda model, options: options.update(seed=4), "seed was '0' there and is '4' here"),
    "weights": (lambda model, options: model.lm_head.weight.data.add_(1), "weights was"),
    "configuration": (
        lambda model, options: setattr(model.generation_config, "min_length", 4),
        "generation_config: min_length was",
    ),
    "tokenizer": (lambda model, options: options["tokenizer"].add_tokens("new"), "tokenizer was"),
    "plan": (
        lambda model, options: el_attention.convert(model, "expanded-query"),
        "attention plan",
    ),
    "dtype": (lambda model, options: model.to(torch.float32), "weights was"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_journal_of_another_run_is_refused(change, tmp_path) -> None:
    model = el_attention.convert(model_of("bart"))
    options: dict[str, Any] = {
        "tokenizer": tokenizer_of("bart"),
        "journal": tmp_path / "journal",
        "num_beams": 2,
        "max_new_tokens": 4,
        "progress": False,
    }
    generate_many(model, texts=TEXTS, **options)
    make, message = CHANGES[change]
    make(model, options)
    with pytest.raises(ValueError, match=r"journal: it is of another run: .*") as error:
        generate_many(model, texts=TEXTS, **options)
    assert message in str(error.value)


def test_memory_and_batches_may_be_others_where_a_run_is_continued(tmp_path) -> None:
    model, tokenizer = el_attention.convert(model_of("bart")), tokenizer_of("bart")
    options: dict[str, Any] = {
        "journal": tmp_path / "journal",
        "max_new_tokens": 4,
        "progress": False,
    }
    first = generate_many(model, tokenizer, TEXTS[:4], **options)
    el_attention.convert(model, memory_budget=10**6)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    found = generate_many(model, tokenizer, TEXTS, batch_size=2, memory_budget=10**7, **options)
    assert found[:4] == first and len(found) == len(TEXTS)


def test_damaged_records_are_made_again(tmp_path, caplog) -> None:
    model, tokenizer = el_attention.convert(model_of("bart")), tokenizer_of("bart")
    path = tmp_path / "journal"
    options: dict[str, Any] = {
        "journal": path,
        "batch_size": 3,
        "max_new_tokens": 4,
        "progress": False,
    }
    first = generate_many(model, tokenizer, TEXTS, **options)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"[[", b"[{", 1)
    path.write_bytes(b"".join(lines))
    assert generate_many(model, tokenizer, TEXTS, **options) == first
    assert "line 3 is damaged" in caplog.text


def test_random_numbers_of_the_caller_stay_what_they_were() -> None:
    model, tokenizer = model_of("bart"), tokenizer_of("bart")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = generate_many(model, tokenizer, TEXTS[:2], do_sample=True, progress=False)
    assert torch.equal(torch.rand(3), expected)
    other = generate_many(model, tokenizer, TEXTS[:2], do_sample=True, seed=1, progress=False)
    assert one != other


def test_the_bar_counts_every_text(capsys) -> None:
    generate_many(model_of("bart"), tokenizer_of("bart"), [*TEXTS, None], max_new_tokens=2)
    assert f"{len(TEXTS) + 1}/{len(TEXTS) + 1}" in capsys.readouterr().err


def test_models_of_no_family_need_a_batch_size() -> None:
    model, tokenizer = model_of("bart"), tokenizer_of("bart")
    expected = generate_many(model, tokenizer, TEXTS, max_new_tokens=5, progress=False)
    model.__class__ = type("Unknown", (type(model),), {})
    with pytest.raises(ValueError, match=r"expected a batch_size, because .* of this Unknown"):
        generate_many(model, tokenizer, TEXTS, max_new_tokens=5, progress=False)
    found = generate_many(model, tokenizer, TEXTS, batch_size=5, max_new_tokens=5, progress=False)
    assert found == expected


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": torch.nn.Linear(1, 1)}, TypeError, "expected a model that generates, got Linear"),
    ({"texts": "w1 w2"}, TypeError, "expected texts in a list, got str"),
    ({"texts": 3}, TypeError, "expected texts in a list, got int"),
    ({"tokenizer": 3}, TypeError, "expected a tokenizer, got int"),
    ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    ({"memory_budget": -5}, ValueError, "memory_budget: expected at least 1, got -5"),
    ({"attention_mask": 1}, ValueError, "attention_mask is made of the texts"),
    ({"output_logits": True}, ValueError, "expected options of texts, tokens and scores, got out"),
    ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "num_return_sequences"),
    ({"num_beams": "abc"}, ValueError, "num_beams: expected a whole number from 1, got 'abc'"),
    ({"num_return_sequences": -1}, ValueError, "num_return_sequences: expected a whole number"),
    ({"generation_config": 5}, ValueError, "expected a GenerationConfig, got int"),
    ({"decoder_input_ids": [[1]]}, ValueError, "expected a Tensor, got list"),
    ({"no_such_option": 2}, ValueError, "no_such_option"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(changes, kind, message) -> None:
    arguments = {"model": model_of("bart"), "tokenizer": tokenizer_of("bart"), "texts": TEXTS}
    with pytest.raises(kind, match=message):
        el_attention.generate_many(**{**arguments, "progress": False, **changes})


def test_models_in_training_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a model in evaluation mode: model\.eval"):
        generate_many(model_of("bart").train(), tokenizer_of("bart"), TEXTS)


def test_a_processor_stands_for_its_tokenizer() -> None:
    class Processor:
        tokenizer = tokenizer_of("bart")

    model = model_of("bart")
    options: dict[str, Any] = {"max_new_tokens": 4, "progress": False}
    expected = generate_many(model, Processor.tokenizer, TEXTS, **options)
    assert generate_many(model, Processor(), TEXTS, **options) == expected
