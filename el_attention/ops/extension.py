"""Loads the compiled operators, `el_attention._C`, or says why they are not there.

The extension uses torch's C++ interface, which may change with every version (operators can be
registered through its stable part from torch 2.9 on only, and 2.6 is supported).  So `setup.py`
notes the torch that it was built for, and an extension for another torch is not loaded at all,
instead of failing with an undefined symbol or worse.

Attributes:
    unsupported: why the compiled operators cannot be used, or None if they are loaded.
"""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path

import torch

NOTE = Path(__file__).parents[1] / "_C.json"
# The operators, and how many arguments each of them takes.
OPERATORS = {
    "attend": 6,
    "weights": 6,
    "block_ngrams_": 5,
    "log_sum_exp": 1,
    "top_candidates": 5,
    "linear": 3,
    "is_widened": 2,
}
# Of the module.
MEMBERS = ("DecoderLayer", "ShortWaits", "StepRows", "derivatives_are_on", "unsupported_gpu")


def load(note: Path = NOTE) -> str | None:
    """Loads the extension, which registers its operators with torch.

    Args:
        note: what `setup.py` left beside the extension.

    Returns:
        Why it cannot be used, or None if it is loaded.
    """
    try:
        built = json.loads(note.read_text())
    except FileNotFoundError:
        return f"not built: there is no {note.name} in {note.parent}"
    if "unsupported" in built:
        return f"not built: {built['unsupported']}"
    running = str(torch.__version__)
    if built["torch"] != running:
        return _warned(f"built for torch {built['torch']}, running torch {running}")
    try:
        module = importlib.import_module("el_attention._C")
    except ImportError as error:
        return _warned(f"built for torch {built['torch']}, but cannot be loaded: {error}")
    # Sources that were updated, and an extension that was not.
    other = [name for name, count in OPERATORS.items() if _arguments(name) != count]
    other += [name for name in MEMBERS if not hasattr(module, name)]
    if other:
        names = ", ".join(other)
        return _warned(f"built from other sources: they differ in {names}; install again")
    return None


def _arguments(name: str) -> int | None:
    """Returns how many arguments an operator takes, or None if there is no such operator."""
    operator = getattr(torch.ops.el_attention, name, None)
    return None if operator is None else len(operator.default._schema.arguments)


def _warned(reason: str) -> str:
    # Not for an extension that was never built: the doctor says that to those who ask.
    logging.getLogger(__name__).warning(f"the compiled operators are not used: {reason}")
    return reason


unsupported = load()
