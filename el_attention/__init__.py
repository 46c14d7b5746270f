"""EL-attention (Yan et al., ICML 2021) for fairseq and for Hugging Face Transformers.

Importing the package, which `--user-dir` does, registers the `el_` models and tasks and lets
torch load fairseq checkpoints.  Without a working fairseq the operators, states and plans can
still be used; `fairseq_error` then says what is wrong.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "convert", "fairseq_error", "generate_many"]


class _Path(list[str]):
    """The package's folder under all its names: fairseq asks whether --user-dir is in it."""

    def __contains__(self, folder: object) -> bool:
        return super().__contains__(os.path.realpath(str(folder)))


__path__ = _Path(os.path.realpath(folder) for folder in __path__)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Undoes what the import of a model of fairseq does: the root logger prints all it gets."""
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


fairseq_error: Exception | None = None
try:
    with _root_logger_kept():
        import fairseq  # noqa: F401

        from el_attention import fairseq_plugin
except Exception as error:  # a broken fairseq fails in many ways; the doctor reports each
    fairseq_error = error
    if not (isinstance(error, ModuleNotFoundError) and error.name == "fairseq"):
        logging.getLogger(__name__).warning(
            f"fairseq cannot be imported, only the operators are there: {error!r}"
        )
else:
    fairseq_plugin.allow_fairseq_checkpoints()
    fairseq_plugin.register_models()
    fairseq_plugin.register_tasks()


def convert(
    target: Any,
    plan: str = "auto",
    memory_budget: int | None = None,
    *,
    generation_only: bool = False,
) -> Any:
    """Makes a model, hub interface or generator use EL-attention.

    Models of Transformers go to `transformers_plugin.convert`, everything else to fairseq's
    `fairseq_plugin.convert`.

    Args:
        target: what is to generate; it is changed in place.
        plan: "auto", "expanded-query" or "shared-projection".
        memory_budget: bytes that "auto" plans for, beyond what is loaded; None for what is free.
        generation_only: whether the model is there to generate: float32 weights of the decoder that
            16 bits hold exactly are kept so alone, on a CPU, until something else reads them.

    Returns:
        `target`.

    Raises:
        ImportError: if the target is not of Transformers, and fairseq cannot be imported.
        TypeError: if `target` is something else.
        ValueError: if there is no such plan.
    """
    if any(base.__module__.partition(".")[0] == "transformers" for base in type(target).__mro__):
        from el_attention import transformers_plugin

        return transformers_plugin.convert(
            target, plan, memory_budget, generation_only=generation_only
        )
    if fairseq_error is not None:
        raise ImportError(f"el_attention.convert needs fairseq: {fairseq_error}") from fairseq_error
    return fairseq_plugin.convert(target, plan, memory_budget, generation_only=generation_only)


def __getattr__(name: str) -> Any:
    """Imports what needs Transformers when it is asked for.

    Raises:
        AttributeError: if there is no such name.
    """
    if name == "generate_many":
        from el_attention.transformers_plugin import generate_many

        return generate_many
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
