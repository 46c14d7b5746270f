"""What needs no fairseq is tested without it, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("decoder", "ops", "state", "transformers_plugin")


def run_without_fairseq(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest where `import fairseq` fails as if it were not installed."""
    package = folder / "fairseq"
    package.mkdir()
    source = "raise ModuleNotFoundError(\"No module named 'fairseq'\", name='fairseq')\n"
    (package / "__init__.py").write_text(source)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
def test_tests_of_everything_but_its_front_end_run(tmp_path) -> None:
    pytest.importorskip("transformers")
    folders = [f"tests/{folder}" for folder in FOLDERS]
    chosen = "test_tree or shared_by_all or share_a_model or says_it_once"
    result = run_without_fairseq(tmp_path, *folders, "-m", "not slow", "-k", chosen)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "error" not in result.stdout and " passed" in result.stdout


@pytest.mark.slow
def test_tests_of_its_front_end_do_not(tmp_path) -> None:
    result = run_without_fairseq(tmp_path, "tests/fairseq_plugin/test_hub.py")
    assert result.returncode != 0 and "No module named 'fairseq'" in result.stdout
