"""Build a summarization data set from the docstrings of installed Python packages.

The first paragraph of a docstring is the summary (target), the rest is the document (source).
Files are parsed with ``ast``; no package is imported. The result depends only on the files read:
they are visited in sorted order, duplicates are dropped, and a pair's split follows from a hash of
its text, so that adding a package moves no other pair to another split.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import platform
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

MIN_SUMMARY_WORDS, MAX_SUMMARY_WORDS = 4, 24
MIN_DOCUMENT_WORDS, MAX_DOCUMENT_WORDS = 12, 400
VALID_PERCENT, TEST_PERCENT = 2, 2
SPLITS = ("train", "valid", "test")

# Test suites mostly describe bugs. This package's own docstrings change with every edit.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "__pycache__", "site-packages"}
SKIPPED_PACKAGES = {"el_attention"}

_DOCTEST = re.compile(r"^\s*(>>>|\.\.\.(\s|$))")
_UNDERLINE = re.compile(r"^\s*([-=~^*#`+])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\. ")
_ROLE = re.compile(r":[\w:+.-]+:`~?([^`]*)`")
_NOT_PROSE = re.compile(r"->|::|>>>|==|https?:|^\W*\w+\(|[{}|<>]")


class Pair(NamedTuple):
    document: str
    summary: str


class FileResult(NamedTuple):
    """What one file gave: its pairs and, if it could not be parsed, why."""

    pairs: list[Pair]
    error: str | None


def clean(text: str) -> str:
    """`text` on one line, without doctests, section underlines, directives and markup."""
    lines = []
    in_doctest = False
    for line in text.splitlines():
        # The output of a doctest runs until the next blank line.
        in_doctest = bool(_DOCTEST.match(line)) or (in_doctest and bool(line.strip()))
        if not (in_doctest or _UNDERLINE.match(line) or _DIRECTIVE.match(line)):
            lines.append(line)
    return " ".join(_ROLE.sub(r"\1", " ".join(lines)).replace("`", "").split())


def split_docstring(docstring: str) -> Pair | None:
    """The (document, summary) of a docstring; None if it has no usable summary or document."""
    head, _, body = docstring.strip().partition("\n\n")
    summary, document = clean(head), clean(body)
    if not MIN_SUMMARY_WORDS <= len(summary.split()) <= MAX_SUMMARY_WORDS:
        return None
    if _NOT_PROSE.search(summary) or not summary[0].isalpha():
        return None
    words = document.split()
    if len(words) < MIN_DOCUMENT_WORDS:
        return None
    return Pair(" ".join(words[:MAX_DOCUMENT_WORDS]), summary)


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, nested ones too, in source order."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring
        # Only statements can hold definitions: skipping expressions makes the walk 3x faster.
        children = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        pending.extend(reversed(children))


def read_file(path: Path) -> FileResult:
    """All pairs in one Python file."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return FileResult([], None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        return FileResult([], f"{type(error).__name__}: {error}")
    found = (split_docstring(docstring) for docstring in docstrings(tree))
    return FileResult([pair for pair in found if pair], None)


def python_files(root: Path) -> list[Path]:
    """The Python files under `root` that are read, in a stable order."""
    files = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not SKIPPED_FOLDERS.intersection(parts[:-1]) and parts[0] not in SKIPPED_PACKAGES:
            files.append(path)
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def normalise(text: str) -> str:
    """The letters of `text` only: what makes two documents the same for de-duplication."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def drop_duplicates(pairs: Iterable[tuple[str, Pair]]) -> list[tuple[str, Pair]]:
    """The (package, pair) items whose normalised document was not seen before."""
    seen: set[str] = set()
    kept = []
    for package, pair in pairs:
        key = normalise(pair.document)
        if key not in seen:
            seen.add(key)
            kept.append((package, pair))
    return kept


def split_of(pair: Pair) -> str:
    """The split of a pair: a function of its text alone."""
    digest = hashlib.sha256("\n".join(pair).encode("utf-8", "replace")).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    if percent < TEST_PERCENT:
        return "test"
    return "valid" if percent < TEST_PERCENT + VALID_PERCENT else "train"


def distributions() -> dict[str, str]:
    """Top-level name -> "distribution version", for everything in site-packages."""
    # Each look at `metadata` parses it again: one for each distribution, not for each of its files.
    installed = [(found, found.metadata) for found in metadata.distributions()]
    return {
        file.parts[0].removesuffix(".py"): origin
        for found, data in sorted(installed, key=lambda item: item[1]["Name"])
        for origin in [f"{data['Name']} {data['Version']}"]
        for file in found.files or ()
        if file.suffix == ".py"
    }


def build(roots: list[Path], output: Path, workers: int) -> dict[str, object]:
    """Write {train,valid,test}.{source,target} and provenance.json to `output`.

    Returns the content of provenance.json. Raises ValueError if a split would be empty.
    """
    files = [(root, path) for root in roots for path in python_files(root)]
    errors: dict[str, str] = {}
    pairs: list[tuple[str, Pair]] = []
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(read_file, [path for _, path in files], chunksize=64)
        for (root, path), result in zip(files, results, strict=True):
            relative = path.relative_to(root)
            if result.error:
                errors[relative.as_posix()] = result.error
            pairs.extend((relative.parts[0].removesuffix(".py"), pair) for pair in result.pairs)
    kept = drop_duplicates(pairs)

    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for _, pair in kept:
        splits[split_of(pair)].append(pair)
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        raise ValueError(f"no pairs for {empty}: {len(kept)} pairs found in {len(files)} files")

    output.mkdir(parents=True, exist_ok=True)
    for split, members in splits.items():
        for side, field in (("source", "document"), ("target", "summary")):
            lines = [getattr(pair, field) + "\n" for pair in members]
            text = "".join(lines).encode("utf-8", "replace")  # lone surrogates become "?"
            (output / f"{split}.{side}").write_bytes(text)

    counts = Counter(package for package, _ in kept)
    origin = dict.fromkeys(sys.stdlib_module_names, f"Python {platform.python_version()}")
    origin |= distributions()
    provenance: dict[str, object] = {
        "pairs": {split: len(members) for split, members in splits.items()},
        "duplicates_dropped": len(pairs) - len(kept),
        "files_read": len(files) - len(errors),
        "files_not_parsed": errors,
        "packages": {
            package: {"pairs": count, "from": origin.get(package)}
            for package, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        },
    }
    (output / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    return provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument(
        "--stdlib-only", action="store_true", help="leave out site-packages (a smaller data set)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that parse files")
    args = parser.parse_args()

    names = ["stdlib"] if args.stdlib_only else ["stdlib", "purelib", "platlib"]
    roots = list(dict.fromkeys(Path(sysconfig.get_path(name)).resolve() for name in names))
    provenance = build(roots, args.output, args.workers)
    json.dump({k: v for k, v in provenance.items() if k != "packages"}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
