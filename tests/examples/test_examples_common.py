"""What the examples share: files, pieces, scores, reports, measurements and steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import exampledata
import score
from common import (
    acquire,
    bart_model,
    generated,
    pairs,
    pieces,
    report,
    run_measured,
    scores,
)
from common.acquire import DataError, Policy, Published
from common.lines import one_line, read_lines, write_lines
from common.measurements import Spy, storages
from common.pairs import Pair

EXAMPLES = Path(report.__file__).resolve().parents[1]
LENIENT = Policy(unverified=True)


# --- lines ---


def test_only_a_line_feed_ends_a_line(tmp_path):
    lines = ["one\u2028two", "", "three\x0b\r", "lone \ud800"]
    write_lines(tmp_path / "text", lines)
    assert read_lines(tmp_path / "text") == [*lines[:3], "lone ?"]
    write_lines(tmp_path / "text", [])
    assert read_lines(tmp_path / "text") == []
    assert one_line(" a\n\u2028b\t c ") == "a b c"


# --- files ---


@pytest.fixture
def published(tmp_path):
    """A file that can be "downloaded", with its digest."""
    (tmp_path / "remote").mkdir()
    path = tmp_path / "remote" / "data.txt"
    path.write_text("published")
    return Published("data.txt", path.as_uri(), acquire.sha256(path))


def test_missing_files_are_downloaded_only_when_asked(published, tmp_path):
    folder = tmp_path / "local"
    with pytest.raises(DataError) as caught:
        acquire.obtain(folder, [published], "From us, CC0.", Policy())
    for part in (str(folder), published.url, "From us, CC0.", "--download"):
        assert part in str(caught.value)
    acquire.obtain(folder, [published], "From us, CC0.", Policy(download=True))
    assert [path.name for path in folder.iterdir()] == ["data.txt"]
    assert (folder / "data.txt").read_text() == "published"


def test_a_local_copy_is_verified_and_never_downloaded_again(published, tmp_path, capsys):
    (tmp_path / "data.txt").write_text("altered")
    with pytest.raises(DataError, match=f"sha256 is .*, expected {published.sha256}"):
        acquire.obtain(tmp_path, [published], "", Policy(download=True))
    acquire.obtain(tmp_path, [published], "", LENIENT)
    assert "warning:" in capsys.readouterr().err
    assert (tmp_path / "data.txt").read_text() == "altered"


def test_a_download_cut_short_leaves_no_file(published, tmp_path, monkeypatch):
    def cut(source, target):
        target.write(source.read(3))

    monkeypatch.setattr(acquire.shutil, "copyfileobj", cut)
    with pytest.raises(OSError, match="3 of 9 bytes"):
        acquire.obtain(tmp_path / "local", [published], "", Policy(download=True))
    assert not (tmp_path / "local" / "data.txt").exists()


# --- pairs ---

ITEMS = [
    ("train", Pair("a\nb", " c  d")),
    ("test", Pair("e", "f")),
    ("train", Pair("", "no source")),
    ("valid", Pair("g\u2028h", "i")),
]
COUNTS = {"train": 1, "valid": 1, "test": 1}


def test_pairs_are_written_one_a_line_without_incomplete_ones(tmp_path, capsys):
    assert pairs.write_pairs(ITEMS, tmp_path, COUNTS, Policy()) == COUNTS
    assert read_lines(tmp_path / "train.source") == ["a b"]
    assert read_lines(tmp_path / "train.target") == ["c d"]
    assert read_lines(tmp_path / "valid.source") == ["g h"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".source"] * 3 + [".target"] * 3
    assert "left out for lack of a source or a target: 1" in capsys.readouterr().out


def test_other_counts_than_the_published_are_refused(tmp_path, capsys):
    expected = COUNTS | {"train": 2}
    with pytest.raises(DataError, match=r"found .*'train': 1.*, expected .*'train': 2"):
        pairs.write_pairs(ITEMS, tmp_path, expected, Policy())
    assert not (tmp_path / "train.source").exists()
    pairs.write_pairs(ITEMS, tmp_path, expected, LENIENT)
    assert (tmp_path / "train.source").exists()
    assert "warning: pairs: found" in capsys.readouterr().err


def test_an_empty_split_is_refused_whatever_the_policy(tmp_path):
    with pytest.raises(DataError, match="empty"):
        pairs.write_pairs(ITEMS[:2], tmp_path, COUNTS, LENIENT)


# --- pieces ---


def test_sentencepiece_pieces_become_text():
    assert pieces.decoder("sentencepiece")("▁Comp ute ▁H-1 .") == "Compute H-1."


@pytest.mark.parametrize("kind", ["gpt2", "gpt2=", "bert", "sentencepiece=x"])
def test_unknown_pieces_are_refused(kind):
    with pytest.raises(ValueError, match="expected"):
        pieces.decoder(kind)


def test_byte_level_pieces_become_the_text_they_came_from(tmp_path):
    exampledata.write_bpe(tmp_path, "encoder.json", "vocab.bpe")
    bpe, decode = pieces.load_bpe(tmp_path), pieces.decoder(f"gpt2={tmp_path}")
    text = "The café's door:\n on Sundays 日本"
    line = pieces.encode_line(bpe, text, 1000)
    assert decode(line) == text
    assert decode(f"<unk> {line} madeupword0000") == text
    cut = pieces.encode_line(bpe, text, 4, begin="<s>", end="\nTL;DR:")
    assert cut.split()[:5] == ["<s>", *line.split()[:4]]
    assert decode(" ".join(cut.split()[5:])) == "\nTL;DR:"


# --- a released BART ---


@pytest.fixture
def bart_archive(tmp_path):
    """A folder as `--download` leaves it: the archive of a model and its byte-level BPE."""
    folder = tmp_path / "model"
    exampledata.write_bpe(folder, "encoder.json", "vocab.bpe")
    (tmp_path / "bart.large.cnn").mkdir()
    for name in ("model.pt", "dict.txt", "NOTE"):
        (tmp_path / "bart.large.cnn" / name).write_text(f"the {name}")
    archive = folder / "bart.large.cnn.tar.gz"
    exampledata.write_archive(archive, tmp_path / "bart.large.cnn")
    return archive


def test_a_model_is_taken_from_its_archive(bart_archive, capsys):
    folder = bart_archive.parent
    bart_model.obtain_model(folder, "bart.large.cnn", LENIENT)
    assert (folder / "model.pt").read_text() == "the model.pt"
    assert (folder / "dict.txt").read_text() == "the dict.txt"
    assert not list(folder.glob("*.part"))
    assert "269 pieces, expected 50257" in capsys.readouterr().err
    bart_archive.unlink()
    bart_model.obtain_model(folder, "bart.large.cnn", LENIENT)
    with pytest.raises(DataError, match="269 pieces, expected 50257"):
        bart_model.obtain_model(folder, "bart.large.cnn", Policy())


def test_the_archive_of_another_model_is_refused(bart_archive):
    bart_archive.rename(bart_archive.with_name("bart.large.xsum.tar.gz"))
    with pytest.raises(DataError, match=r"no file bart\.large\.xsum/model\.pt"):
        bart_model.obtain_model(bart_archive.parent, "bart.large.xsum", LENIENT)


def test_a_missing_model_names_its_archive(tmp_path):
    with pytest.raises(DataError, match=r"bart\.large\.xsum\.tar\.gz +from +https://"):
        bart_model.obtain_model(tmp_path, "bart.large.xsum", LENIENT)


# --- scores ---


def test_rouge():
    found = scores.score(
        ["Compute H-1.", "Return the sum"], ["Compute H-1.", "Return the product"], ["rouge"]
    )
    assert found["ROUGE-1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert found["ROUGE-2"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert found["ROUGE-L"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_bleu_counts_n_grams_of_the_whole_corpus():
    found = scores.score(
        ["the cat sat on the mat .", "a b c d e"], ["the cat sat on a mat .", "a b c d e"], ["bleu"]
    )
    precisions = (11 / 12) * (8 / 10) * (5 / 8) * (3 / 6)
    assert found["BLEU-4"] == pytest.approx(100 * precisions**0.25)


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """A tiny WordNet, in which a boat is a ship."""
    import nltk

    exampledata.write_wordnet(tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk.corpus, "wordnet", new_wordnet())


def new_wordnet():
    from nltk.corpus import LazyCorpusLoader, WordNetCorpusReader

    return LazyCorpusLoader("wordnet", WordNetCorpusReader, None)


def test_meteor_knows_synonyms_and_stems(wordnet):
    # All words match in one chunk: the penalty is 0.5 (1 chunk / 3 matches)^3.
    found = scores.score(["A boat sails"], ["a ship sailing"], ["meteor"])
    assert found["METEOR"] == pytest.approx(100 * (1 - 0.5 / 27))
    assert scores.score(["a cat sails"], ["a ship sailing"], ["meteor"])["METEOR"] < 70


def test_meteor_without_its_data_says_how_to_get_them(tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk.corpus, "wordnet", new_wordnet())
    with pytest.raises(LookupError, match=r"nltk\.downloader wordnet"):
        scores.score(["a"], ["a"], ["meteor"])


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], ["a", "b"])])
def test_scores_need_a_reference_for_each_hypothesis(hypotheses, references):
    with pytest.raises(ValueError, match=f"{len(hypotheses)} hypotheses for {len(references)}"):
        scores.score(hypotheses, references, ["bleu"])


def test_score_command(tmp_path, monkeypatch, capsys):
    write_lines(tmp_path / "h", ["one two three four", "five"])
    write_lines(tmp_path / "r", ["one two three four", "six"])
    arguments = ["--hypotheses", str(tmp_path / "h"), "--references", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", ["score.py", *arguments, "--metrics", "rouge", "bleu"])
    score.main()
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["ROUGE-1", "ROUGE-2", "ROUGE-L", "BLEU-4"]
    assert printed["ROUGE-1"] == 50
    (tmp_path / "r").write_text("one\n")
    with pytest.raises(SystemExit, match="2 hypotheses for 1 references"):
        score.main()


# --- report ---


def printed(hypotheses, speed="1,234.50"):
    """What fairseq-generate prints, for {sentence: (score, tokens[, scores of the tokens])}."""
    lines = []
    for sentence, (value, tokens, *given) in hypotheses.items():
        token_scores = given or [value] * (len(tokens.split(" ")) + 1)
        lines += [
            f"S-{sentence}\tsource",
            f"T-{sentence}\ttarget",
            f"H-{sentence}\t{value}\t{tokens}",
            f"D-{sentence}\t{value}\ttext with a line\nend",
            f"P-{sentence}\t" + " ".join(f"{token_score:.4f}" for token_score in token_scores),
        ]
    count = len(hypotheses)
    lines.append(
        f"2026-01-01 | INFO | fairseq_cli.generate | Translated {count:,} sentences (1,999 tokens) "
        f"in 5.0s ({speed} sentences/s, 9,876.00 tokens/s)"
    )
    return "\n".join(lines) + "\n"


HYPOTHESES = {
    1: (-1.5, "▁Return ▁the ▁sum ."),
    0: (-0.5, "▁Comp ute ▁H-1 ."),
    2: (-2.0, "▁Tabs \u2028 ▁are ▁not ▁lines"),
}


def test_parse_output():
    output = generated.parse_output(printed(HYPOTHESES))
    assert list(output.hypotheses) == [0, 1, 2]
    assert output.samples_per_second == 1234.5
    assert output.hypotheses[0] == generated.Hypothesis("▁Comp ute ▁H-1 .", -0.5, (-0.5,) * 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Translated", "", "did not finish"),
        ("H-1\t", "", "for 3 sentences, found 2"),
        ("P-1\t", "", "for 3 sentences, found 2"),
    ],
)
def test_incomplete_output(old, new, message):
    with pytest.raises(ValueError, match=message):
        generated.parse_output(printed(HYPOTHESES).replace(old, new))


@pytest.mark.parametrize(
    ("other", "token_gap", "is_tie"),
    [
        ((-2.0, "a x d", -1.0, -3.0001, -9.0, -0.5), 0.0001, True),
        ((-2.0, "a x d", -1.0, -3.2, -0.5, -0.5), 0.2, False),
        ((-1.000001, "a x d", -1.0, -3.2, -0.5, -0.5), 0.2, True),
        # The end of the sentence, or another token where the baseline ends.
        ((-2.0, "a", -1.0, -2.5), 0.5, False),
        ((-2.0, "a b c d", -1.0, -3.0, -0.5, -0.7501, -0.5), 0.0001, True),
    ],
    ids=str,
)
def test_a_difference_is_a_tie_where_the_hypotheses_part_or_in_the_end(other, token_gap, is_tie):
    hypotheses = {0: (-1.0, "a b c", -1.0, -3.0, -0.5, -0.75)}
    outputs = [generated.parse_output(printed(item)) for item in (hypotheses, {0: other})]
    (found,) = generated.differences(*outputs)
    assert found.token_gap == pytest.approx(token_gap)
    assert found.gap == pytest.approx(abs(other[0] + 1) / abs(other[0]))
    assert found.is_tie == is_tie


def test_differences():
    baseline = generated.parse_output(printed(HYPOTHESES))
    assert generated.differences(baseline, baseline) == []
    tie = generated.parse_output(printed(HYPOTHESES | {1: (-1.500001, "▁Return ▁a ▁sum .")}))
    other = generated.parse_output(printed(HYPOTHESES | {2: (-2.1, "▁Tab s")}))
    assert [(d.sentence, d.is_tie) for d in generated.differences(baseline, tie)] == [(1, True)]
    assert [(d.sentence, d.is_tie) for d in generated.differences(baseline, other)] == [(2, False)]
    rescored = generated.parse_output(printed(HYPOTHESES | {2: (-3.0, HYPOTHESES[2][1])}))
    assert generated.differences(baseline, rescored) == []
    fewer = generated.parse_output(printed({0: HYPOTHESES[0]}))
    with pytest.raises(ValueError, match=r"one of two outputs only: \[1, 2\]"):
        generated.differences(baseline, fewer)


def test_prompts_are_no_part_of_the_text():
    output = generated.parse_output(
        printed({0: (-1.0, "7 8 9"), 1: (-1.0, "17 8"), 2: (-1.0, "3")})
    )
    assert report.texts_of(output, str, ["7", "17 8", "3"]) == ["8 9", "", ""]
    with pytest.raises(ValueError, match="hypothesis 1 does not begin"):
        report.texts_of(output, str, ["7", "1", "3"])
    with pytest.raises(ValueError, match="hypothesis 2 does not begin"):
        report.texts_of(output, str, ["7", "17", "3 8"])


def test_unknown_words_of_a_prompt_are_recognized():
    output = generated.parse_output(printed({0: (-1.0, "7 <unk> 9 <unk>")}))
    assert report.texts_of(output, str, ["7 8 9"]) == ["<unk>"]
    with pytest.raises(ValueError, match="hypothesis 0 does not begin"):
        report.texts_of(output, str, ["7 8 8"])


def test_texts_are_one_line_of_the_sentences_asked_for():
    output = generated.parse_output(printed({0: (-1.0, "x")}))
    text = "One\nhalf. Two! Three? Four."
    assert report.texts_of(output, lambda tokens: text) == ["One half. Two! Three? Four."]
    assert report.texts_of(output, lambda tokens: text, sentences=3) == ["One half. Two! Three?"]


@pytest.fixture
def run_report(tmp_path, monkeypatch):
    """Runs report.py on a baseline and another system with the given hypotheses."""
    (tmp_path / "sources").write_text("first document\nsecond\nthird\n")
    (tmp_path / "references").write_text("Compute H-1.\nReturn the sum.\nTabs\n")

    def run(other):
        for name, hypotheses in (("stock", HYPOTHESES), ("other", other)):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "stdout").write_text(printed(hypotheses))
            (folder / "stderr").write_text("")
            (folder / "run.json").write_text('{"peak_rss_bytes": 1048576}')
            state = {"state_bytes_per_sentence": 2048.0, "sentences": 3, "source_length": 7}
            (folder / "state.json").write_text(json.dumps(state))
        systems = [f"{name}={tmp_path / name}" for name in ("stock", "other")]
        options = ["--title", "A test", "--pieces", "sentencepiece", "--metrics", "rouge", "bleu"]
        for side in ("sources", "references"):
            options += [f"--{side}", str(tmp_path / side)]
        # Systems last: --metrics would take them for its own.
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["report.py", str(out), *systems, *options])
        # The environment of the tests need not hold an installed package.
        monkeypatch.setattr(report, "machine", lambda: {"torch": "9.9"})
        status = report.main()
        return SimpleNamespace(
            status=status,
            text=(out / "report.md").read_text(),
            record=json.loads((out / "report.json").read_text()),
            hypotheses=read_lines(out / "other.txt"),
        )

    return run


def test_report_of_equal_systems(run_report):
    result = run_report(HYPOTHESES)
    assert result.status == 0
    assert "# A test: stock attention and EL-attention" in result.text
    assert "| ROUGE-1 / ROUGE-2 / ROUGE-L / BLEU-4 |" in result.text
    assert "| other | 1234.50 | 2.0 | 1 |" in result.text
    assert "reference:  Return the sum." in result.text
    assert [row["differing"] for row in result.record["rows"]] == [0, 0]
    assert result.record["rows"][1]["scores"]["ROUGE-1"] == pytest.approx(100 * (1 + 1 + 0.4) / 3)
    assert result.record["machine"] == {"torch": "9.9"}
    assert result.hypotheses == ["Compute H-1.", "Return the sum.", "Tabs are not lines"]


def test_report_shows_a_tie(run_report):
    result = run_report(HYPOTHESES | {1: (-1.500001, "▁Return ▁a ▁sum .")})
    assert result.status == 0
    assert "Sentence 1 differs (a tie)" in result.text


def test_report_fails_on_a_difference(run_report, capsys):
    result = run_report(HYPOTHESES | {1: (-1.6, "▁Return ▁a ▁sum .")})
    assert result.status == 1
    assert "Sentence 1 differs (NOT A TIE)" in result.text
    assert "1 hypotheses differ from stock's" in capsys.readouterr().err


def test_report_wants_every_source(run_report, monkeypatch):
    monkeypatch.setitem(HYPOTHESES, 3, (-1.0, "▁More ▁than ▁sources"))
    with pytest.raises(ValueError, match="4 hypotheses for 3 sources"):
        run_report(HYPOTHESES)


# --- measurements ---


def test_run_measured(tmp_path):
    hold = "b = bytearray(200 << 20); b[::4096] = b'x' * len(b[::4096]); print('done')"
    # In a process of its own: this one holds torch, and a child inherits its parent's peak.
    command = [EXAMPLES / "common" / "run_measured.py", tmp_path, "--", sys.executable, "-c", hold]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    assert (tmp_path / "stdout").read_text() == "done\n"
    record = json.loads((tmp_path / "run.json").read_text())
    assert 200 << 20 <= record["peak_rss_bytes"] < 300 << 20
    assert record["wall_seconds"] > 0


def test_run_measured_reports_failure(tmp_path, capfd):
    command = [sys.executable, "-c", "import sys; sys.exit('no such checkpoint')"]
    assert run_measured.run(command, tmp_path) == 1
    assert not (tmp_path / "run.json").exists()
    assert "no such checkpoint" in capfd.readouterr().err


@dataclass
class Holder:
    held: object


class Slotted:
    __slots__ = ("held",)


def test_storages_counts_each_storage_once():
    big, small = torch.zeros(10), torch.zeros(3, dtype=torch.int64)
    slotted = Slotted()
    slotted.held = small
    holder = Holder([big[2:4], {"key": slotted}, (big.view(2, 5), None, "text", 1.5)])
    holder.held.append(holder)  # a cycle
    linear = nn.Linear(100, 100)
    holder.held.append(linear)
    found = storages({"a": holder, "b": deque([torch.ones(1)])}, big)
    assert sorted(found.values()) == [4, 24, 40]


def test_storages_of_a_dict_are_those_it_holds():
    class MakesCopies(dict):
        def __getitem__(self, key):
            return super().__getitem__(key).repeat(5)

        def values(self):
            return [self[key] for key in self]

    held = MakesCopies(a=torch.zeros(2))
    held.beside = torch.zeros(3)
    assert sorted(storages(held).values()) == [8, 12]


def test_spy_keeps_the_peak_and_leaves_out_parameters():
    linear = nn.Linear(4, 4, bias=False)
    sizes = iter([2, 8, 4])

    def forward(tokens, encoder_out, incremental_state, factor):
        incremental_state["state"] = [torch.zeros(next(sizes)), linear.weight.view(-1)]
        return factor

    spy = Spy(forward, linear)
    state, source = {}, {"encoder_out": [torch.zeros(5)]}
    for _ in range(3):
        result = spy(torch.zeros(1, 1), encoder_out=source, incremental_state=state, factor=0.5)
        assert result == 0.5
    assert spy.peak == 4 * (5 + 8)


def test_spy_leaves_out_copies_of_weights_that_are_made_in_the_first_step():
    linear = nn.Linear(4, 4, bias=False)
    linear.el_narrow = None

    def forward(tokens, encoder_out, incremental_state):
        linear.el_narrow = SimpleNamespace(kept={"weight": linear.weight.half()})
        incremental_state["state"] = [torch.zeros(3), linear.el_narrow.kept["weight"]]

    spy = Spy(forward, linear)
    spy(torch.zeros(1, 1), encoder_out={}, incremental_state={})
    assert spy.peak == 4 * 3


# --- steps.sh ---

DOCSTRINGS = EXAMPLES / "docstring_summarization" / "run.sh"


@pytest.fixture
def run_sh(tmp_path):
    """Runs a run.sh with stand-ins for the commands it calls; `broken` ones fail."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def stand_in(name, script):
        (commands / name).write_text(f"#!/bin/bash\n{script}\n")
        (commands / name).chmod(0o755)

    def run(*options, broken=()):
        fail = 'echo "simulated failure"; exit 3'
        # report.py's first argument is its folder.
        stand_in("python", 'case $1 in *report.py) echo THE REPORT >"$2/report.md" ;; esac')
        stand_in("el-attention", f'echo "{tmp_path}"')
        for name in ("fairseq-preprocess", "fairseq-train"):
            stand_in(name, fail if name in broken else "true")
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [str(DOCSTRINGS), "--work", str(tmp_path / "work"), *options],
            env={"PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_run_sh_resumes_at_the_step_that_failed(run_sh, tmp_path):
    failed = run_sh(broken=["fairseq-train"])
    assert failed.returncode != 0
    assert "simulated failure" in failed.stderr
    train = tmp_path / "work/transformer/train"
    assert f"step train failed; see above, or all of it in {train}/log" in failed.stderr
    (train / "checkpoint").touch()
    resumed = run_sh()
    assert resumed.returncode == 0, resumed.stderr
    assert "[data] already complete" in resumed.stdout
    assert "[train]\n" in resumed.stdout
    assert "THE REPORT" in resumed.stdout
    assert (train / "checkpoint").exists()
    again = run_sh()
    assert again.stdout.count("already complete") == 8


def test_options_for_generation_repeat_generation_only(run_sh):
    assert run_sh().returncode == 0
    other = run_sh("--", "--beam", "2")
    assert other.returncode == 0, other.stderr
    assert other.stdout.count("already complete") == 4
    assert "[stock]\n" in other.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "quick"], 'the profile is "quick"; expected one of: full long smoke'),
        (["--family", "rnn"], 'the family is "rnn"; expected one of: transformer bart lm'),
        (["--work"], "--work wants a value"),
        (["--dataset"], "unknown option --dataset; see run.sh --help"),
    ],
)
def test_run_sh_refuses_wrong_options(run_sh, options, message):
    result = run_sh(*options)
    assert result.returncode == 2
    assert message in result.stderr


def test_families_share_data_and_searches_share_a_model(run_sh, tmp_path):
    first = run_sh("--profile", "long")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("[train]\n") == 1
    assert first.stdout.count("THE REPORT") == 3
    second = run_sh("--profile", "long", "--family", "bart")
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already complete") == 2  # data and subwords
    for family in ("transformer", "bart"):
        for search in ("beam", "diverse", "greedy"):
            assert (tmp_path / f"work/{family}/{search}/report/report.md").exists()


def test_run_sh_lists_its_options(run_sh):
    result = run_sh("--help")
    assert result.returncode == 0
    options = "--data --model --work --profile --family --download --unverified".split()
    for option in options:
        assert option in result.stdout


def test_only_examples_with_families_have_the_option(tmp_path):
    script = EXAMPLES / "summarization_xsum" / "run.sh"
    helped, refused = (
        subprocess.run([str(script), *words], capture_output=True, text=True, timeout=60)
        for words in (["--help"], ["--family", "bart"])
    )
    assert "--family" not in helped.stdout
    assert refused.returncode == 2
    assert 'the family is "bart"; expected one of: none' in refused.stderr
