"""Every run.sh of the examples with published data or models, on tiny ones of the same formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import exampledata
from common.lines import read_lines
from exampledata import SPLIT_SIZES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = {
    "summarization_cnn_dm": (exampledata.write_cnn_dm, exampledata.write_bart),
    "summarization_xsum": (exampledata.write_xsum, exampledata.write_bart),
    "question_generation_squad": (exampledata.write_squad, None),
    "summarization_gpt2": (exampledata.write_cnn_dm, exampledata.write_gpt2),
}
METRICS = {"question_generation_squad": ["BLEU-4", "METEOR"]}


def run_sh(example: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a run.sh in short form on what lies in `folder`."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "NLTK_DATA": str(folder / "nltk"),
        "OMP_NUM_THREADS": "1",
    }
    paths = [word for name in ("data", "model", "work") for word in (f"--{name}", folder / name)]
    return subprocess.run(
        [ROOT / "examples" / example / "run.sh", "--profile", "smoke", *paths, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.parametrize("example", EXAMPLES)
def test_run_sh_from_published_files_to_scores(example, tmp_path):
    write_data, write_model = EXAMPLES[example]
    write_data(tmp_path / "data")
    if write_model is not None:
        write_model(tmp_path / "model")
    exampledata.write_wordnet(tmp_path / "nltk")

    refused = run_sh(example, tmp_path)
    assert refused.returncode != 0
    assert "step data failed" in refused.stderr
    assert "--unverified accepts it" in refused.stderr

    result = run_sh(example, tmp_path, "--unverified")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "work" / "report" / "report.json").read_text())
    assert [row["differing"] for row in report["rows"]] == [0, 0, 0]
    stock, *others = report["rows"]
    for row in others:
        assert row["scores"] == stock["scores"]
        assert row["state_bytes_per_sentence"] < stock["state_bytes_per_sentence"]
    assert set(stock["scores"]) == {"ROUGE-1", "ROUGE-2", "ROUGE-L", *METRICS.get(example, [])}
    assert (tmp_path / "work" / "report" / "report.md").read_text() in result.stdout
    texts = read_lines(tmp_path / "work" / "report" / "stock.txt")
    assert len(texts) == SPLIT_SIZES["test"]
    assert sum(map(bool, texts)) > 3

    again = run_sh(example, tmp_path, "--unverified")
    assert again.returncode == 0
    steps = [line for line in again.stdout.splitlines() if line.startswith("[")]
    assert len(steps) > 7
    assert all(line.endswith("already complete") for line in steps)


def test_run_sh_of_transformers_finds_equal_hypotheses(tmp_path):
    pytest.importorskip("transformers", reason="of the extra `transformers`")
    result = run_sh("transformers_summarization", tmp_path)
    assert result.returncode == 0, result.stderr
    table = read_lines(tmp_path / "work" / "compare" / "table.md")
    assert "\n".join(table) in result.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]
    assert [row[0] for row in rows] == [
        "Transformers",
        "Transformers, EL-attention",
        "fairseq, EL-attention",
    ]
    assert {row[1] for row in rows} == {"12"} and len({row[2] for row in rows}) == 1
    assert int(rows[0][2]) > 50 and {row[3] for row in rows} == {"0"}


def test_run_sh_of_a_corpus_finds_equal_outputs(tmp_path):
    pytest.importorskip("transformers", reason="of the extra `transformers`")
    result = run_sh("corpus", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("equal: one workers merged")
    texts = read_lines(tmp_path / "work" / "data" / "test.source")
    rows = [json.loads(line) for line in read_lines(tmp_path / "work" / "one" / "out.jsonl")]
    assert [row["id"] for row in rows] == list(range(1, len(texts) + 1))
    assert {row["reason"] for row in rows} == {None}
    assert len({row["hypotheses"][0] for row in rows}) > len(rows) / 2
