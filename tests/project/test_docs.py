"""The site: its pictures are those that are drawn, its texts those of the repository."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from el_attention import cli
from el_attention.fairseq_plugin.options import OPTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hooks of the site's build."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(*arguments: str, script: Path = DOCS / "pictures" / "draw.py") -> str:
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    return result.stderr


def test_pictures_are_up_to_date() -> None:
    assert draw("--check") == ""


def test_a_picture_that_was_changed_by_hand_is_noticed(tmp_path) -> None:
    script = tmp_path / "draw.py"
    script.write_text((DOCS / "pictures" / "draw.py").read_text())
    assert "tree.svg: not what draw.py draws" in draw("--check", script=script)
    assert draw(script=script) == draw("--check", script=script) == ""
    picture = tmp_path / "plans.svg"
    picture.write_text(picture.read_text().replace("head_dim", "d_k"))
    assert "plans.svg: not what draw.py draws" in draw("--check", script=script)


def test_the_reference_has_every_option_and_default(hooks) -> None:
    text = "\n".join(hooks.commands())
    for option in OPTIONS:
        assert f"| `--{option.name.replace('_', '-')}" in text
    for name in ("doctor", "user-dir", "plan"):
        assert f"### `el-attention {name}`" in text
    assert "| `--beam BEAM` | hypotheses of each sentence | `4` |" in text
    assert str(cli.parser().description) in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[the model](scripts/research/COST_MODEL.md)", "[the model](cost-model.md)"),
        ("[the model](scripts/research/COST_MODEL.md#limits)", "[the model](cost-model.md#limits)"),
        ("[kernels](csrc)", "[kernels](kernels.md)"),
        ("![rows](docs/pictures/tree.svg)", "![rows](pictures/tree.svg)"),
        ("[`setup.py`](setup.py)", "`setup.py`"),
        ("[the build](setup.py)", "the build (`setup.py`)"),
        ("[paper](https://arxiv.org/abs/2105.04779)", "[paper](https://arxiv.org/abs/2105.04779)"),
        ("[above](#above)", "[above](#above)"),
    ],
)
def test_links_lead_to_pages_or_become_text(hooks, text, expected) -> None:
    pages = {
        "scripts/research/COST_MODEL.md": "cost-model.md",
        "csrc/README.md": "kernels.md",
        "docs/pictures/tree.svg": "pictures/tree.svg",
    }

    def replace(link):
        return hooks.linked(link, "README.md", "index.md", pages)

    assert hooks.LINK.sub(replace, text) == expected


def test_a_link_to_nothing_stops_the_build(hooks) -> None:
    link = hooks.LINK.search("[gone](scripts/gone.md)")
    with pytest.raises(Exception, match=r"README\.md: expected a file .* scripts/gone\.md"):
        hooks.linked(link, "README.md", "index.md", {})


def test_the_readme_is_short_and_its_figures_are_recorded() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.split()) <= 900
    for command in ("make demo ", "make test ", "--task el_translation", "pip install . "):
        assert command in readme
    recorded = (ROOT / "scripts" / "benchmarks" / "RESULTS.md").read_text().replace(",", "")
    figures = re.findall(r"([\d.]+) ms, ([\d.]+) /s", readme)
    assert len(figures) == 3 * 8
    for step, rate in figures:
        assert re.search(rf"\| {step} \|.*\| {rate} \|", recorded), (step, rate)
