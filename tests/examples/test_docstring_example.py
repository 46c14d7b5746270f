"""The parts of examples/docstring_summarization, without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import build_data
import results

BODY = "The rest of this docstring has enough words to be a document of number"


# --- data ---


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("one\n  two\tthree", "one two three"),
        ("See :class:`~a.b.C` and ``code``.", "See a.b.C and code."),
        ("Parameters\n----------\nx : int", "Parameters x : int"),
        (".. note:: gone\n\nkept", "kept"),
        ("before\n>>> f(1)\n... + 2\n[3,\n4]\n\nafter", "before after"),
        ("a ... b", "a ... b"),
    ],
)
def test_clean(text, cleaned):
    assert build_data.clean(text) == cleaned


def test_summary_is_the_first_paragraph():
    pair = build_data.split_docstring(f"Sum the values\n    of a list.\n\n{BODY} one.\n\nMore.")
    assert pair == (f"{BODY} one. More.", "Sum the values of a list.")


@pytest.mark.parametrize(
    "docstring",
    [
        f"Too short.\n\n{BODY}",
        f"{'A summary that does not end ' * 8}\n\n{BODY}",
        "The document is too short.\n\nOnly four words here.",
        "There is no document at all.",
        f"function(a, b) -> computes a thing\n\n{BODY}",
        f"* an item of a list\n\n{BODY}",
        f">>> a doctest comes first here\n\n{BODY}",
        " \n ",
    ],
)
def test_unusable_docstrings(docstring):
    assert build_data.split_docstring(docstring) is None


def test_long_documents_are_cut():
    document, _ = build_data.split_docstring("A summary of four words.\n\n" + "word " * 5000)
    assert len(document.split()) == build_data.MAX_DOCUMENT_WORDS


def write_package(root: Path, name: str, functions: range) -> None:
    """A package with a docstring for each number; importing it fails."""
    lines = ['raise RuntimeError("imported")']
    for number in functions:
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        docstring = f"Compute the value of {word}.\n\n    {BODY} {word}.\n    "
        lines.append(f'if True:\n  class C{number}:\n    def f(self):\n      """{docstring}"""')
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text("\n".join(lines))


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "packages"
    write_package(root, "alpha", range(150))
    write_package(root, "beta", range(100, 300))  # a third are alpha's
    write_package(root, "beta/tests", range(1000, 1100))
    write_package(root, "el_attention", range(2000, 2100))
    (root / "gamma.py").write_text("'''x'''\nprint 'Python 2'")
    return root


def built(roots, output):
    provenance = build_data.build(roots, output, workers=1)
    return provenance, {path.name: path.read_bytes() for path in output.iterdir()}


def test_build(packages, tmp_path):
    provenance, files = built([packages], tmp_path / "one")
    counts = {name: entry["pairs"] for name, entry in provenance["packages"].items()}
    assert counts == {"alpha": 150, "beta": 150}
    assert provenance["duplicates_dropped"] == 50
    assert "SyntaxError" in provenance["files_not_parsed"]["gamma.py"]
    assert json.loads(files.pop("provenance.json")) == provenance
    lines = {name: text.decode().splitlines() for name, text in files.items()}
    for split in build_data.SPLITS:
        sources, targets = lines[f"{split}.source"], lines[f"{split}.target"]
        assert len(sources) == len(targets) == provenance["pairs"][split] > 0
        assert all(s.split()[-1] == t.split()[-1] for s, t in zip(sources, targets, strict=True))
    sources = [line for split in build_data.SPLITS for line in lines[f"{split}.source"]]
    assert len(sources) == len(set(sources)) == 300


def test_build_is_deterministic(packages, tmp_path):
    _, first = built([packages], tmp_path / "one")
    _, second = built([packages], tmp_path / "two")
    assert first == second


def test_another_package_moves_no_pair(packages, tmp_path):
    _, before = built([packages], tmp_path / "one")
    write_package(packages, "aaa", range(5000, 5200))
    _, after = built([packages], tmp_path / "two")
    for split in build_data.SPLITS:
        name = f"{split}.source"
        assert set(before[name].splitlines()) <= set(after[name].splitlines())


def test_empty_split_is_an_error(tmp_path):
    write_package(tmp_path / "root", "alpha", range(2))
    with pytest.raises(ValueError, match=r"2 pairs found in 1 files"):
        build_data.build([tmp_path / "root"], tmp_path / "out", workers=1)


# --- results ---

STOCK, EXPANDED, SHARED = "stock fairseq", "EL, expanded", "EL, shared"

TRAINING_LOG = """\
| INFO | fairseq_cli.train | num. shared model params: 2,101,632 (num. trained: 2,101,632)
| INFO | epoch 001 | valid on 'valid' subset | loss 9 | nll_loss 8 | ppl 256 | num_updates 40
| INFO | epoch 002 | valid on 'valid' subset | loss 5 | nll_loss 4 | ppl 16.5 | num_updates 80
"""


def write_run(folder: Path, options: list[str], differences: list[dict[str, object]]) -> None:
    """What run.sh leaves of a search over twelve sentences."""
    rows = [
        {
            "system": system,
            "scores": {"ROUGE-1": 25.126, "ROUGE-L": 20.0},
            "state_bytes_per_sentence": kibibytes * 1024,
            "differing": len(differences) if system == EXPANDED else 0,
            "largest_score_gap": 3e-7,
        }
        for system, kibibytes in ((STOCK, 4096), (EXPANDED, 64), (SHARED, 512))
    ]
    found = {STOCK: [], EXPANDED: differences, SHARED: []}
    report = folder / "report"
    report.mkdir(parents=True)
    record = {"rows": rows, "differences": found, "machine": {"processor": "P", "torch": "9.9"}}
    (report / "report.json").write_text(json.dumps(record))
    (folder / "stock").mkdir()
    command = ["fairseq-generate", "binary", "--cpu", "--beam", *options]
    (folder / "stock" / "run.json").write_text(json.dumps({"command": command}))
    for name in ("stock", "expanded-query", "shared-projection"):
        lines = [f"{folder.parent.name} {folder.name} {name} {n}\n" for n in range(12)]
        (report / f"{name}.txt").write_text("".join(lines))


@pytest.fixture
def work(tmp_path):
    (tmp_path / "data").mkdir()
    for side in ("source", "target"):
        (tmp_path / "data" / f"test.{side}").write_text("".join(f"{side} {n}\n" for n in range(12)))
    provenance = {"pairs": {"train": 28446, "valid": 5, "test": 12}}
    (tmp_path / "data" / "provenance.json").write_text(json.dumps(provenance))
    for family in ("lm", "bart"):
        (tmp_path / family / "train").mkdir(parents=True)
        log = TRAINING_LOG + "training took 90.000 s of processor time\n"
        (tmp_path / family / "train" / "log").write_text(log)
    item = {"sentence": 7, "gap": 0.25, "token_gap": 0.0001, "tie": True}
    write_run(tmp_path / "bart" / "greedy", ["1"], [item])
    write_run(tmp_path / "bart" / "beam", ["4"], [])
    write_run(tmp_path / "lm" / "beam", ["4"], [])
    return tmp_path


def test_results_of_all_families_and_searches(work):
    text = results.document(work)
    assert text.count("| 2,101,632 | 80 | 1.5 | 16.5 |") == 2
    assert "P; torch: 9.9. 28,446 pairs" in text
    figures = "25.13 / 20.00 | 25.13 / 20.00 | 25.13 / 20.00"
    lines = [line for line in text.splitlines() if figures in line]
    assert lines == [
        f"| bart | `--beam 4` | {figures} | 0, 0 | 3e-07 | 4,096 | 64 | 512 |",
        f"| bart | `--beam 1` | {figures} | 1, 0 | 3e-07 | 4,096 | 64 | 512 |",
        f"| lm | `--beam 4` | {figures} | 0, 0 | 3e-07 | 4,096 | 64 | 512 |",
    ]
    assert "Of 72 hypotheses 1 differ from stock fairseq's:" in text
    assert (
        "- bart, `--beam 1`, EL, expanded, sentence 7 (a tie): relative gap of the scores 2.5e-01, "
        "of the first tokens that differ 0.0001 bits. “bart greedy stock 7” / "
        "“bart greedy expanded-query 7”"
    ) in text
    assert text.count("document: ") == results.SAMPLES
    sample = ["document:    source 3", "reference:   target 3"]
    sample += ["bart:        bart beam stock 3", "lm:          lm beam stock 3"]
    assert "\n".join(sample) in text


def test_results_want_a_complete_training(work):
    (work / "lm" / "train" / "log").write_text(TRAINING_LOG)
    with pytest.raises(ValueError, match="no line with 'training took"):
        results.document(work)


def test_results_want_a_report(tmp_path):
    with pytest.raises(ValueError, match="expected FAMILY/SEARCH/report"):
        results.document(tmp_path)
