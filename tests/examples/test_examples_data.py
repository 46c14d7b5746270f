"""The data sets of the examples, from small files in their published formats."""

from __future__ import annotations

import json
import shutil
import sys
from types import ModuleType

import pytest

import exampledata
from common import prepare as command
from common.acquire import DataError, Policy
from common.lines import read_lines
from common.pairs import SIDES, SPLITS, Pair
from exampledata import SPLIT_SIZES
from question_generation_squad import prepare as squad
from summarization_cnn_dm import prepare as cnn_dm
from summarization_xsum import prepare as xsum

LENIENT = Policy(unverified=True)

DATA_SETS = {
    "cnn_dm": (cnn_dm, exampledata.write_cnn_dm),
    "xsum": (xsum, exampledata.write_xsum),
    "squad": (squad, exampledata.write_squad),
}


@pytest.fixture(params=DATA_SETS)
def data_set(request, tmp_path):
    """(module, folder with the published files)."""
    module, write = DATA_SETS[request.param]
    write(tmp_path / "data")
    return module, tmp_path / "data"


def prepare(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Runs a prepare.py."""
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    command.run(module.__doc__, module.pairs, module.PAIRS)


def test_prepare_writes_all_pairs(data_set, tmp_path, monkeypatch):
    module, folder = data_set
    prepare(module, monkeypatch, folder, tmp_path / "out", "--unverified")
    lines = {path.name: read_lines(path) for path in (tmp_path / "out").iterdir()}
    assert {name: len(found) for name, found in lines.items()} == {
        f"{split}.{side}": SPLIT_SIZES[split] for split in SPLITS for side in SIDES
    }
    assert all(line == " ".join(line.split()) != "" for found in lines.values() for line in found)


def test_prepare_refuses_another_data_set_than_the_published(data_set, tmp_path, monkeypatch):
    module, folder = data_set
    with pytest.raises(SystemExit, match=r"sha256 is .*--unverified"):
        prepare(module, monkeypatch, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.source"))


def test_prepare_says_where_missing_files_come_from(data_set, tmp_path, monkeypatch):
    module, _ = data_set
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as caught:
        prepare(module, monkeypatch, tmp_path / "empty", tmp_path / "out", "--unverified")
    message = str(caught.value)
    assert "https://" in message
    assert module.ORIGIN in message
    assert "--download" in message
    assert not list((tmp_path / "empty").iterdir())


def splits(module, folder):
    found = {split: [] for split in SPLITS}
    for split, pair in module.pairs(folder, LENIENT):
        found[split].append(pair)
    return found


@pytest.mark.parametrize(
    ("name", "archives"),
    [
        ("cnn_dm", {"cnn": "cnn_stories.tgz", "dailymail": "dailymail_stories.tgz"}),
        ("xsum", {"bbc-summary-data": "XSUM-EMNLP18-Summary-Data-Original.tar.gz"}),
    ],
)
def test_archives_hold_the_same_pairs_as_folders(name, archives, tmp_path):
    module, write = DATA_SETS[name]
    write(tmp_path)
    unpacked = splits(module, tmp_path)
    for folder, archive in archives.items():
        exampledata.write_archive(tmp_path / archive, tmp_path / folder)
        shutil.rmtree(tmp_path / folder)
    packed = splits(module, tmp_path)
    assert {split: sorted(items) for split, items in packed.items()} == {
        split: sorted(items) for split, items in unpacked.items()
    }


@pytest.mark.parametrize("module", [cnn_dm, xsum])
def test_prepared_text_is_taken_as_it_is(module, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.source").write_text(f"{name} one\n{name} two\n")
        (tmp_path / f"{name}.target").write_text("1\n2\n")
    found = splits(module, tmp_path)
    assert found["valid"] == [Pair("val one", "1"), Pair("val two", "2")]
    (tmp_path / "test.target").write_text("1\n")
    with pytest.raises(DataError, match=r"2 lines in .*test.source, 1 lines in .*test.target"):
        splits(module, tmp_path)


@pytest.mark.parametrize("name", ["cnn_dm", "xsum"])
def test_a_listed_text_that_is_not_there_is_an_error(name, tmp_path):
    module, write = DATA_SETS[name]
    write(tmp_path)
    gone = sorted([*tmp_path.glob("*/stories/*.story"), *tmp_path.glob("*/*.summary")])[0]
    gone.unlink()
    with pytest.raises(DataError, match=f"1 of 23 .* the first is {gone.name}"):
        splits(module, tmp_path)


# --- CNN/DailyMail ---


def test_a_story_has_an_article_and_highlights():
    story = "A line\n\nAnother one.\n\n@highlight\n\nFirst\n\n@highlight\n\nSecond!\n"
    assert cnn_dm.parse_story(story) == ("A line. Another one.", "First. Second!")
    assert cnn_dm.parse_story("\n@highlight\n\nOnly this") == ("", "Only this.")
    assert cnn_dm.parse_story("Said \u201cso\u201d\nand (so)") == (
        "Said \u201cso\u201d and (so)",
        "",
    )


def test_stories_without_text_are_left_out(tmp_path, monkeypatch, capsys):
    exampledata.write_cnn_dm(tmp_path / "data")
    story = next((tmp_path / "data" / "cnn" / "stories").iterdir())
    story.write_text("\n\n@highlight\n\nA story that is a video")
    prepare(cnn_dm, monkeypatch, tmp_path / "data", tmp_path / "out", "--unverified")
    assert "left out for lack of a source or a target: 1" in capsys.readouterr().out


def test_pairs_are_the_stories_of_their_split(tmp_path):
    exampledata.write_cnn_dm(tmp_path)
    expected = {}
    for split, numbers in exampledata.numbered_splits().items():
        articles = [exampledata.article(number) for number in numbers]
        expected[split] = {
            (
                "(TOWN) -- " + " ".join(f"{line}." for line in body),
                " ".join(f"{h}." for h in summary),
            )
            for body, summary in articles
        }
    assert {split: set(items) for split, items in splits(cnn_dm, tmp_path).items()} == expected


# --- XSum ---


def test_an_article_has_a_first_sentence_and_a_body():
    article = (
        "[SN]URL[SN]\nhttp://x\n\n[SN]TITLE[SN]\nNot used\n\n[SN]FIRST-SENTENCE[SN]\nShort.\n\n"
    )
    body = "[SN]RESTBODY[SN]\nEmail\nOne.\nTwo Email.\n"
    assert xsum.parse_article(article + body) == ("One. Two Email.", "Short.")
    with pytest.raises(DataError, match=r"no section \['RESTBODY'\]"):
        xsum.parse_article(article)


# --- SQuAD ---


def test_questions_of_the_listed_articles_are_the_test_split(tmp_path):
    exampledata.write_squad(tmp_path)
    found = splits(squad, tmp_path)
    for split, numbers in exampledata.numbered_splits().items():
        contexts = {". ".join(exampledata.article(number)[0]) + "." for number in numbers}
        assert {pair.source.split(" <sep> ")[1] for pair in found[split]} == contexts
    answer, _, context = found["test"][0].source.partition(" <sep> ")
    assert answer == context.split()[1]
    assert found["test"][0].target.startswith("Who ")


def test_another_version_of_squad_is_refused(tmp_path):
    exampledata.write_squad(tmp_path)
    content = json.loads((tmp_path / "dev-v1.1.json").read_text())
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(content | {"version": "v2.0"}))
    with pytest.raises(DataError, match=r"expected SQuAD version '1.1', got 'v2.0'"):
        splits(squad, tmp_path)


def test_a_listed_article_that_is_not_there_is_an_error(tmp_path):
    exampledata.write_squad(tmp_path)
    (tmp_path / "doclist-test.txt").write_text("Café\nNowhere\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"not in train-v1.1.json: \['Nowhere'\]"):
        splits(squad, tmp_path)
