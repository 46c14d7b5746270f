"""Unknown words of hypotheses are replaced by the source words that they attend to most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.sequence_generator import SequenceGenerator

from clidata import SINGLE_SENTENCES, Workspace, run
from crossed import crossed
from tiny import PLANS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SOURCES = ["s3 s1 s4", "never s5 s9 never2 s6 s2 s8", "s7", "s2 s6 again s5"]
TARGETS = ["t3 t1", "t5", "t7 t2", "t2 t6"]


@pytest.fixture(scope="module")
def raw(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus `pair` with a raw test set, in which there are unknown words."""
    folder = tmp_path_factory.mktemp("raw")
    for language, lines in (("src", SOURCES), ("tgt", TARGETS)):
        name = f"dict.{language}.txt"
        (folder / name).write_text((workspace.root / "pair" / name).read_text())
        (folder / f"test.src-tgt.{language}").write_text("\n".join(lines) + "\n")
    return folder


def generate(workspace: Workspace, raw: Path, options: Sequence[str], plan: str) -> list[str]:
    _, *arguments = workspace.generation("translation", "transformer", *options, plan=plan)
    return run("generate", str(raw), "--unkpen", "-50", *arguments, "--dataset-impl", "raw")


def lines_of(lines: Sequence[str], kind: str) -> list[tuple[int, list[str]]]:
    """Numbers of sentences, and the words of the last column of their lines."""
    found = [re.fullmatch(rf"{kind}-(\d+)\t(.*\t)?(.*)", line) for line in lines]
    return [(int(match[1]), match[3].split()) for match in found if match]


def replaced(lines: Sequence[str], translations: dict[str, str]) -> list[tuple[int, list[str]]]:
    """The hypotheses of a run with alignments, with unknown words replaced."""
    result = []
    for (number, words), (_, pairs) in zip(lines_of(lines, "H"), lines_of(lines, "A"), strict=True):
        position = {int(tgt): int(src) for src, tgt in (pair.split("-") for pair in pairs)}
        source = SOURCES[number].split()
        new = [source[position[i]] if word == "<unk>" else word for i, word in enumerate(words)]
        result.append((number, [translations.get(word, word) for word in new]))
    return result


@pytest.mark.parametrize(
    ("options", "plan", "dictionary"),
    crossed(
        [
            *(("", plan) for plan in PLANS),
            ("--batch-by-memory", "auto"),
            ("--beam 2 --nbest 2 --batch-size 1 --unkpen -7", "auto"),
            ("--prefix-size 1", "auto"),
            ("--sampling --beam 2 --nbest 2 --seed 4 --unkpen -7", "auto"),
            ("--journal", "auto"),
        ],
        [None, "", "file"],
    ),
)
def test_words_follow_the_highest_attention(workspace, raw, tmp_path, dictionary, options, plan):
    chosen = options.split()
    aligned = generate(
        workspace, raw, [*(chosen if options != "--journal" else ()), "--print-alignment"], plan
    )
    translations = {}
    if dictionary == "file":
        translations = {"never": "nie", "s5": "fuenf", "s1": "eins", "s6": "sechs"}
        dictionary = str(tmp_path / "dictionary")
        Path(dictionary).write_text("".join(f"{a} {b}\n" for a, b in translations.items()))
    if options == "--journal":
        chosen.append(str(tmp_path / "journal"))
    chosen += ["--replace-unk", *([] if dictionary is None else [dictionary])]
    expected = replaced(aligned, translations)
    assert sum("<unk>" in words for _, words in lines_of(aligned, "H")) > 1
    assert lines_of(generate(workspace, raw, chosen, plan), "H") == expected
    if options == "--journal":  # from what is recorded
        assert lines_of(generate(workspace, raw, chosen, plan), "H") == expected


def test_several_source_words_are_copied(workspace, raw) -> None:
    lines = generate(workspace, raw, ["--replace-unk", ""], "auto")
    copied = {word for _, words in lines_of(lines, "H") for word in words if word[0] != "t"}
    assert len(copied) > 2
    assert copied <= {word for line in SOURCES for word in line.split()}


@pytest.mark.parametrize("buffer", ["", "--buffer-size 3 --batch-size 3"])
@pytest.mark.parametrize(
    ("setup", "checkpoint", "prefix"), [("translation", "transformer", "s"), ("joint", "bart", "w")]
)
def test_fairseq_interactive_replaces_them(workspace, setup, checkpoint, prefix, buffer) -> None:
    stdin = "\n".join([SOURCES[0], SOURCES[2], "s2 s6 s5"]).replace("s", prefix) + "\n"
    options = ["--unkpen", "-50", *buffer.split()]
    arguments = workspace.generation(setup, checkpoint, *options, plan="auto")
    aligned = run("interactive", *arguments, "--print-alignment", stdin=stdin)
    lines = run("interactive", *arguments, "--replace-unk", stdin=stdin)
    sources = lines_of(lines, "S")
    for (number, words), (_, before), (_, pairs) in zip(
        lines_of(lines, "H"), lines_of(aligned, "H"), lines_of(aligned, "A"), strict=True
    ):
        position = {int(tgt): int(src) for src, tgt in (pair.split("-") for pair in pairs)}
        source = dict(sources)[number]
        assert "<unk>" in before
        assert words == [
            source[position[i]] if word == "<unk>" else word for i, word in enumerate(before)
        ]


def by_attention(task: Any, model: Any, extra: dict[str, Any], text: str) -> list[str]:
    """Stock fairseq's best hypothesis for a line alone, with its unknown words replaced."""
    words, targets = task.source_dictionary, task.target_dictionary
    tokens = words.encode_line(text, add_if_not_exist=False).long()
    dataset = task.build_dataset_for_inference([tokens], [len(tokens)])
    sample = dataset.collater([dataset[0]])
    generator = SequenceGenerator([model], targets, beam_size=5, unk_penalty=-50, **extra)
    hypothesis = task.inference_step(generator, [model], sample)[0][0]
    (source,) = sample["net_input"]["src_tokens"].tolist()
    places = [i for i, token in enumerate(source) if words[token][0] == "w"]
    assert [words[source[i]] for i in places] == text.split()
    result = []
    for token, weights in zip(hypothesis["tokens"], hypothesis["attention"].T, strict=True):
        word = targets[int(token)]
        if word == "<unk>":
            best = int(weights[places].argmax()) if places else None
            word = "<eos>" if best is None else text.split()[best]
        if word not in ("</s>", "[de]", "__de__"):
            result.append(word)
    return result


@pytest.mark.parametrize("setup", ["mbart", "multi"])
def test_tokens_of_languages_are_no_source_words(workspace, setup) -> None:
    texts = ["w3 w1 w4", "w5 w9 w2 w6 w2 w8 w7", "", "w7", "w2 w6 w5"]
    given = {"source_lang": "en", "target_lang": "de"}
    options = ["--unkpen", "-50", "--max-len-b", "20", "--replace-unk", "-s", "en", "-t", "de"]
    arguments = workspace.generation(setup, setup, *options, plan="auto")
    models, _, task = load_model_ensemble_and_task([workspace.checkpoint(setup)], given)
    extra: dict[str, Any] = {"max_len_b": 20}
    if setup == "mbart":
        extra["eos"] = task.target_dictionary.index("[de]")
    expected = [by_attention(task, models[0].eval(), extra, text) for text in texts]
    assert len({word for words in expected for word in words}) > 3
    for buffer in ([], ["--buffer-size", "5", "--batch-size", "5"]):
        lines = run("interactive", *arguments, *buffer, stdin="\n".join(texts) + "\n")
        assert [words for _, words in lines_of(lines, "H")] == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("s1 t1\ns2\n", r"got 's2\\n' in line 2"),
        ("s1 t1\n\ns2 t2\n", r"got '\\n' in line 2"),
        (b"\xff\xfe\x00 \xff", "a dictionary in a text file"),
        (None, "a dictionary in a text file, got .*No such file"),
    ],
)
def test_files_that_are_no_dictionary_are_refused(workspace, raw, tmp_path, text, error) -> None:
    path = tmp_path / "dictionary"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"--replace-unk: expected .*{error}"):
        generate(workspace, raw, ["--replace-unk", str(path)], "auto")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--print-alignment", "--replace-unk: expected None, because --print-alignment"),
        ("--score-reference", "--replace-unk: expected None, because --score-reference"),
        ("--remove-bpe", "--replace-unk: expected no --post-process"),
        ("--bpe bert", "--replace-unk: expected no --bpe"),
        ("--tokenizer nltk", "--replace-unk: expected no --tokenizer"),
        ("--truncate-source", "--replace-unk: expected a raw data set"),
    ],
)
def test_what_would_find_other_words_is_refused(workspace, raw, options, error) -> None:
    with pytest.raises(ValueError, match=error):
        generate(workspace, raw, [*options.split(), "--replace-unk", ""], "auto")


@pytest.mark.skipif(not SINGLE_SENTENCES, reason="fairseq reads np.compat, which numpy 2 has not")
def test_language_models_which_have_no_sources_are_refused(workspace) -> None:
    arguments = workspace.generation("lm", "lm", "--replace-unk", "", plan="auto")
    with pytest.raises(ValueError, match="because a language model has no sources"):
        run("interactive", *arguments, stdin="t1\n")
