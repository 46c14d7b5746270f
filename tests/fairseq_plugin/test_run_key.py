"""A run is continued where everything that can change an output is as it was, and only there."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from torch import nn

import el_attention
from clidata import run
from crossed import crossed
from el_attention.fairseq_plugin.recording import RecordingGenerator
from el_attention.fairseq_plugin.run_key import MAY_DIFFER
from el_attention.robust.description import describe, digest, module_settings
from el_attention.robust.journal import Journal
from families import FAMILIES, LENGTHS, SYMBOLS, arguments_of, model_of
from tiny import assert_same, batch, generator_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def generation(workspace: Any, journal: Path, *options: str) -> list[str]:
    return workspace.generation(
        "translation", "transformer", "--batch-size", "4", "--journal", str(journal), *options,
        plan="shared-projection",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[str]]:
    """The journal of a whole run, and what it printed."""
    journal = tmp_path_factory.mktemp("run") / "journal"
    lines = run("generate", *generation(workspace, journal))
    return journal.read_bytes(), lines


@pytest.fixture
def journal(finished: tuple[bytes, list[str]], tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.write_bytes(finished[0])
    return path


REFUSED = {
    "--beam 2": "generation.beam was '5' there and is '2' here",
    "--lenpen 2": "generation.lenpen was '1",
    "--nbest 2": "generation.nbest",
    "--unnormalized": "generation.unnormalized",
    "--sampling --nbest 5": "generation.sampling",
    "--prefix-size 1": "generation.prefix_size",
    "--no-repeat-ngram-size 2": "generation.no_repeat_ngram_size",
    "--print-alignment": "generation.print_alignment",
    "--batch-size 5": "dataset.batch_size was '4' there and is '5' here",
    "--max-tokens 50": "dataset.max_tokens",
    "--required-batch-size-multiple 2": "dataset.required_batch_size_multiple",
    "--batch-by-memory": "task.batch_by_memory",
    "--attention-plan expanded-query": "attention plan was 'shared-projection' there",
    "--truncate-source": "task.truncate_source",
    "--tokens-to-suppress t1": "task.tokens_to_suppress was 'None' there",
    "--ensemble-weights 2": "task.ensemble_weights",
    "--no-repeat-ngram-size 2 --no-repeat-ngram-after-prefix": "task.no_repeat_ngram_after_prefix",
    "--max-source-positions 30": "task.max_source_positions",
    "--gen-subset valid": "dataset.gen_subset",
    "--num-shards 2 --shard-id 1": "dataset.num_shards",
    "--seed 2": "common.seed was '1' there and is '2' here",
    "--fp16": "common.fp16",
    "--model-overrides {'activation_fn':'gelu'}": "activation_fn",
    "--model-overrides {'encoder_attention_heads':2,'decoder_attention_heads':2}": "num_heads",
    "--model-overrides {'max_target_positions':30}": "max_target_positions",
    "--model-overrides {'no_scale_embedding':True}": "embed_scale",
}


@pytest.mark.parametrize("change", crossed(REFUSED))
def test_another_option_is_refused_by_name(workspace, journal, monkeypatch, change) -> None:
    before = journal.read_bytes()
    # All differences are to be seen, where an error shows the first ones.
    monkeypatch.setattr("el_attention.robust.journal._SHOWN", 1000)
    with pytest.raises(ValueError, match="it is of another run: ") as raised:
        run("generate", *generation(workspace, journal, *change.split()))
    assert REFUSED[change] in str(raised.value)
    assert journal.read_bytes() == before


def test_a_refusal_shows_the_first_differences(workspace, journal) -> None:
    change = ("--fp16", "--lenpen", "2", "--beam", "2", "--batch-size", "5")
    with pytest.raises(ValueError, match=r"there and is .*; and \d+ more; give another file"):
        run("generate", *generation(workspace, journal, *change))


def test_another_seed_is_refused_when_sampling(workspace, tmp_path) -> None:
    sampling = ("--sampling", "--nbest", "5", "--seed", "3")
    run("generate", *generation(workspace, tmp_path / "journal", *sampling))
    with pytest.raises(ValueError, match=r"common\.seed was '3' there and is '4' here"):
        run("generate", *generation(workspace, tmp_path / "journal", *sampling, "--seed", "4"))


def checkpoint_with(workspace: Any, folder: Path, **options: Any) -> str:
    """A checkpoint of the same weights and other options."""
    state = torch.load(workspace.checkpoint("transformer"), weights_only=False)
    for name, value in options.items():
        assert hasattr(state["cfg"]["model"], name)
        setattr(state["cfg"]["model"], name, value)
    torch.save(state, folder / "other.pt")
    return str(folder / "other.pt")


@pytest.mark.parametrize(
    "options",
    [{"activation_fn": "gelu"}, {"decoder_attention_heads": 2}, {"no_scale_embedding": True}],
    ids=str,
)
def test_a_checkpoint_with_other_options_is_refused(workspace, journal, tmp_path, options) -> None:
    path = checkpoint_with(workspace, tmp_path, **options)
    with pytest.raises(ValueError, match="it is of another run: model 0: "):
        run("generate", *generation(workspace, journal, "--path", path))


def test_other_weights_are_refused(workspace, journal) -> None:
    path = workspace.checkpoint("smaller")
    with pytest.raises(ValueError, match="weights was"):
        run("generate", *generation(workspace, journal, "--path", path))


@pytest.mark.parametrize("name", ["torch", "fairseq", "el_attention"])
def test_another_version_is_refused(workspace, journal, monkeypatch, name) -> None:
    monkeypatch.setattr(f"{name}.__version__", "9.9")
    with pytest.raises(ValueError, match=f"version of {name} was '.*' there and is '9.9' here"):
        run("generate", *generation(workspace, journal))


def moved_data(workspace: Any, folder: Path) -> Path:
    shutil.copytree(workspace.root / "pair", folder / "moved")
    return folder / "moved"


def with_data(arguments: list[str], folder: Path) -> list[str]:
    return [str(folder), *arguments[1:]]


def test_another_dictionary_is_refused(workspace, journal, tmp_path) -> None:
    folder = moved_data(workspace, tmp_path)
    path = folder / "dict.src.txt"
    path.write_text(path.read_text().replace("s3 ", "other "))
    with pytest.raises(ValueError, match="source_dictionary was"):
        run("generate", *with_data(generation(workspace, journal), folder))


def test_other_sentences_are_generated_for(workspace, journal, tmp_path) -> None:
    folder = moved_data(workspace, tmp_path)
    for file in folder.glob("valid.*"):
        file.rename(folder / file.name.replace("valid", "test"))
    arguments = with_data(generation(workspace, journal), folder)
    expected = run("generate", *with_data(generation(workspace, tmp_path / "new"), folder))
    assert run("generate", *arguments) == expected


HARMLESS = [
    "--el-memory-budget 1GiB",
    "--data-buffer-size 3",
    "--log-interval 7 --log-format simple --no-progress-bar",
    "--save-dir elsewhere",
]


@pytest.mark.parametrize("change", [*HARMLESS, "threads", "paths"])
def test_what_may_differ_is_continued(
    workspace, journal, tmp_path, monkeypatch, finished, change
) -> None:
    arguments = generation(workspace, journal)
    if change == "paths":
        shutil.copy(workspace.checkpoint("transformer"), tmp_path / "moved.pt")
        arguments = with_data(arguments, moved_data(workspace, tmp_path))
        arguments += ["--path", str(tmp_path / "moved.pt")]
        journal = journal.rename(tmp_path / "renamed")
        arguments += ["--journal", str(journal)]
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    else:
        arguments += change.split()
    monkeypatch.setattr(Journal, "add", lambda *_: pytest.fail("computed again"))
    assert run("generate", *arguments) == finished[1]


def test_every_name_that_may_differ_is_an_option() -> None:
    groups: list[Any] = [
        field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(FairseqConfig)
    ]
    names = {
        field.name
        for group in groups
        if dataclasses.is_dataclass(group)
        for field in dataclasses.fields(group)
    }
    assert names | {"data", "journal", "el_memory_budget"} >= MAY_DIFFER  # the last are of tasks


def test_batches_by_memory_are_continued_in_other_batches(workspace, tmp_path, monkeypatch) -> None:
    options = ("--batch-by-memory", "--max-len-a", "1", "--max-len-b", "2", "--el-memory-budget")
    plain = generation(workspace, tmp_path / "journal")
    at = plain.index("--batch-size")
    del plain[at : at + 2]
    sizes: list[int] = []
    add = Journal.add

    def counting(self: Journal, values: Any, moment: Any = None) -> None:
        sizes.append(len(values))
        add(self, values, moment)

    monkeypatch.setattr(Journal, "add", counting)
    expected = run("generate", *plain, *options, "1GiB")
    assert sizes == [13]
    monkeypatch.setattr(Journal, "add", lambda *_: pytest.fail("computed again"))
    assert sorted(run("generate", *plain, *options, "1KB")) == sorted(expected)


# Live generators


CHANGES: dict[str, Callable[[Any], None]] = {
    "beam_size": lambda g: setattr(g, "beam_size", 2),
    "max_len_b": lambda g: setattr(g, "max_len_b", 3),
    "min_len": lambda g: setattr(g, "min_len", 4),
    "len_penalty": lambda g: setattr(g, "len_penalty", 0.0),
    "temperature": lambda g: setattr(g, "temperature", 3.0),
    "suppressed": lambda g: setattr(g, "token_indices_to_suppress", torch.tensor([5, 6, 7])),
    "n-grams": lambda g: setattr(g.repeat_ngram_blocker, "size", 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_values_changed_on_a_live_generator_count(tmp_path, change) -> None:
    options = {"beam": 3, "max_len_b": 6, "no_repeat_ngram_size": 3}
    generator = el_attention.convert(generator_of([model_of("transformer")], SYMBOLS, options))
    sample = batch(SYMBOLS, LENGTHS)
    journal = Journal(tmp_path / "journal", {})
    RecordingGenerator(generator, journal).generate(None, sample)
    journal.close()
    CHANGES[change](generator)
    ours = RecordingGenerator(generator, Journal(tmp_path / "journal", {}))
    assert_same(generator.generate(None, sample), ours.generate(None, sample), tolerance=0)


@pytest.mark.parametrize("place", ["net_input", "arguments"])
def test_everything_in_a_batch_counts(tmp_path, place) -> None:
    class Echo:
        beam_size, pad = 1, 1

        def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Any:
            values = {**sample["net_input"], **arguments}
            return [[{"other": values["src_lang_id"][i]}] for i in range(2)]

    results = []
    for _ in range(2):
        journal = Journal(tmp_path / "journal", {})
        ours = RecordingGenerator(Echo(), journal)
        for value in (3, 4):
            sample = batch(SYMBOLS, (4, 4))
            given = {"src_lang_id": torch.full((2, 1), value)}
            if place == "net_input":
                sample["net_input"] |= given
            results.append(ours.generate(None, sample, **(given if place == "arguments" else {})))
        journal.close()
    assert [int(r[0][0]["other"]) for r in results] == [3, 4, 3, 4]
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 3


def test_padding_inside_of_a_source_counts_in_any_batch(tmp_path) -> None:
    class Echo:
        beam_size, pad = 1, SYMBOLS.pad()

        def generate(self, models: Any, sample: dict[str, Any], **_: Any) -> Any:
            return [[{"tokens": tokens}] for tokens in sample["net_input"]["src_tokens"]]

    def results(*rows: list[int]) -> list[Any]:
        journal = Journal(tmp_path / "journal", {})
        ours = RecordingGenerator(Echo(), journal, by_sentence=True)
        found = ours.generate(None, {"net_input": {"src_tokens": torch.tensor(rows)}})
        journal.close()
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    pad = SYMBOLS.pad()
    assert results([pad, 7, 8, 2]) == [[pad, 7, 8, 2]]
    assert results([7, pad, 8, 2], [7, 8, 2, pad]) == [[7, pad, 8, 2], [pad, 7, 8, 2]]


# Descriptions


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generation_leaves_a_model_as_it_was_described(family) -> None:
    model = copy.deepcopy(model_of(family))
    options = {"beam": 2, "max_len_b": 4}
    generator = el_attention.convert(generator_of([model], SYMBOLS, options))
    (model,) = generator.model.models
    before = module_settings(model)
    generator.generate(None, batch(SYMBOLS, LENGTHS), **arguments_of(family))
    assert module_settings(model) == before


def test_descriptions_tell_functions_apart() -> None:
    def bound(number: int) -> Any:
        return lambda batch, tokens: [number]

    def other(number: int) -> Any:
        return lambda batch, tokens: [number, number]

    def default(numbers: Any = (1,)) -> Any:
        return numbers

    changed = types.FunctionType(default.__code__, globals(), "default", ((2,),))
    things = [bound(1), bound(2), other(1), default, changed, Words([1]), Words([2]).allowed]
    things += [Words([1]).allowed, functools.partial(default, (1,)), functools.partial(default)]
    digests = [digest(thing) for thing in things]
    assert len(set(digests)) == len(digests)
    assert digest(bound(1)) == digests[0] and digest(Words([1]).allowed) == digests[7]


class Words:
    def __init__(self, words: list[int]) -> None:
        self.words = words
        self.again = self  # a cycle

    def allowed(self, batch: int, tokens: Any) -> list[int]:
        return self.words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (1, "1"),
        (None, "None"),
        ([1], (1,)),
        ([1, [2]], [[1], 2]),
        ({1: 2}, {"1": 2}),
        (b"a", "a"),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.float16, torch.bfloat16),
        (nn.Linear(1, 1), nn.Linear(1, 1)),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (torch.relu, torch.tanh),
    ],
)
def test_descriptions_tell_values_apart(one, other) -> None:
    assert digest(one) != digest(other)
    assert digest([one, one]) == digest([one, one]) and digest(copy.deepcopy(one)) == digest(one)


def test_descriptions_do_not_depend_on_an_order_that_means_nothing() -> None:
    assert digest({"a": 1, "b": {3, 2}}) == digest({"b": {2, 3}, "a": 1})


def test_what_cannot_be_described_is_an_error(tmp_path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ValueError, match="TextIOWrapper"):
        describe({"file": file})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="expected fewer levels"):
        describe(deep)
