"""What makes runs robust knows no framework, and nothing else of this package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import el_attention.robust

FILES = sorted(Path(el_attention.robust.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_robust_imports_no_framework_and_no_attention(path) -> None:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "expected absolute imports"
            names.append(str(node.module))
    for name in names:
        assert name.split(".")[0] not in ("fairseq", "fairseq_cli", "omegaconf", "transformers")
        assert not name.startswith("el_attention") or name.startswith("el_attention.robust")
