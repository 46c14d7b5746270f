"""Who imports whom: no framework below the front ends, and no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import el_attention
from crossed import crossed

PACKAGE = Path(el_attention.__file__).parent
FREE = ("ops", "state", "attention", "decoder", "search", "cost", "robust")
FRAMEWORKS = ("fairseq", "transformers")
FRONT_ENDS = ("el_attention.fairseq_plugin", "el_attention.transformers_plugin")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by name."""
    return {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(source: str) -> set[str]:
    """Everything that a module imports, wherever in it, but for the type checker alone."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, "relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        pending += ast.iter_child_nodes(node)
    return found


@cache
def graph() -> dict[str, set[str]]:
    """The modules of the package that each of them imports."""
    return {
        name: (imports(path.read_text(encoding="utf-8")) & modules().keys()) - {name}
        for name, path in modules().items()
    }


def test_there_is_no_circle() -> None:
    # A package stands for its parts, which it imports for its users.
    inner = {
        name: {other for other in others if not name.startswith(f"{other}.")}
        for name, others in graph().items()
    }
    try:
        order = list(TopologicalSorter(inner).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")
    assert len(order) == len(modules()) > 50


def test_folders_import_one_another_in_one_direction() -> None:
    folders: dict[str, set[str]] = {}
    for name, others in graph().items():
        for other in others:
            mine, theirs = (x.split(".")[1:2] for x in (name, other))
            if mine and theirs and mine != theirs:
                folders.setdefault(mine[0], set()).add(theirs[0])
    try:
        list(TopologicalSorter(folders).static_order())
    except CycleError as error:
        pytest.fail(f"folders import one another: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("folder", FREE)
def test_what_lies_below_the_front_ends_names_no_framework(folder) -> None:
    mine = [name for name in modules() if name.split(".")[1:2] == [folder]]
    assert mine
    for name in mine:
        found = imports(modules()[name].read_text(encoding="utf-8"))
        assert not {x for x in found if x.split(".")[0] in FRAMEWORKS}, name
        assert not {x for x in found if x.startswith(FRONT_ENDS)}, name


@pytest.mark.parametrize(("mine", "others"), [("fairseq_plugin", 1), ("transformers_plugin", 0)])
def test_each_front_end_imports_its_framework_only(mine, others) -> None:
    names = [name for name in modules() if name.split(".")[1:2] == [mine]]
    assert names
    for name in names:
        found = imports(modules()[name].read_text(encoding="utf-8"))
        assert FRAMEWORKS[others] not in {x.split(".")[0] for x in found}, name
        assert not {x for x in found if x.split(".")[:2] == FRONT_ENDS[others].split(".")}, name


def test_corpora_reach_the_front_ends_by_their_public_names_only() -> None:
    names = [name for name in modules() if name.split(".")[1:2] == ["corpus"]]
    assert names
    for name in names:
        found = imports(modules()[name].read_text(encoding="utf-8"))
        assert not {x for x in found if x.split(".")[0] in FRAMEWORKS}, name
        assert {x for x in found if x.startswith(FRONT_ENDS)} <= {*FRONT_ENDS}, name


def test_the_walk_finds_what_it_is_to_find() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import one\nelse:\n"
        "    import two\ndef f():\n    from three import four\n"
    )
    assert imports(source) >= {"two", "three", "three.four"}
    assert "one" not in imports(source)


@pytest.mark.parametrize("absent", crossed(["", "fairseq", "transformers", " ".join(FRAMEWORKS)]))
def test_the_package_is_silent_without_frameworks(absent) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent.split()}))\n"
        "import logging; logging.disable(logging.INFO)\n"
        "import el_attention\nfrom el_attention import decoder, search\n"
        f"assert (el_attention.fairseq_error is not None) == ('fairseq' in {absent.split()})\n"
        "assert 'el_attention.transformers_plugin' not in sys.modules\n"
        "assert 'torch._dynamo' not in sys.modules\n"  # which takes 64 MiB
        "assert not logging.root.handlers and logging.root.level == logging.WARNING\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_models_of_transformers_are_converted_without_fairseq() -> None:
    pytest.importorskip("transformers", reason="of the extra `transformers`")
    code = (
        "import sys; sys.modules['fairseq'] = None\n"
        "import el_attention, transformers\n"
        "sizes = dict(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=9)\n"
        "model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))\n"
        "print(type(el_attention.convert(model))._mixin.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ELModel\n"), done.stderr
