"""Corpora, an engine that needs no model, and a tiny model in a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from el_attention.corpus.engine import Answer, Batch, Recipe
from manytexts import TEXTS, model_of, tokenizer_of

# What a text of these words does to the engine, or to the process that it is in.
FAILS, KILLS, TOO_LONG = "fails", "kills", "long"
# Raises the error of a full disk, where the file of this name is not in the recipe's folder.
FILLS_DISK = "fills"
# Ends the process that reads it, where the file of this name in the recipe's folder is not there.
KILLS_ONCE = "once"

ROWS = [
    {"key": f"r{number}", "text": f"{text} n{number}"} for number, text in enumerate(TEXTS * 2, 1)
]


class Echo:
    """An engine whose hypothesis for a text is the text backwards; batches hold up to 4 rows.

    The option `seconds` is how long it takes for a batch.
    """

    def __init__(self, recipe: Recipe, worker: int = 0) -> None:
        self._recipe = recipe
        if parent_process() is not None:
            leave_journals()

    def settings(self) -> dict[str, str]:
        return {"model": self._recipe.model, **{k: str(v) for k, v in self._recipe.options.items()}}

    def share(self, processes: int) -> int:
        return 1000 // processes

    def limit(self, memory_budget: int) -> None:
        self.budget = memory_budget

    def fix(
        self, texts: Mapping[int, Any], memory_budget: int
    ) -> tuple[list[Batch], dict[int, str]]:
        tokens, reasons = {}, {}
        for place, text in texts.items():
            if not isinstance(text, str):
                reasons[place] = f"expected a text, got {type(text).__name__}"
            elif not text or TOO_LONG in text:
                reasons[place] = "it is too long: 99 tokens" if text else "it is empty: nothing"
            else:
                tokens[place] = [*text.encode()]
        order = sorted(tokens, key=lambda place: (-len(tokens[place]), place))
        batches = [order[first : first + 4] for first in range(0, len(order), 4)]
        return [{place: tokens[place] for place in batch} for batch in batches], reasons

    def generate(self, batch: Batch) -> dict[int, Answer]:
        texts = {place: bytes(tokens).decode() for place, tokens in batch.items()}
        time.sleep(self._recipe.options.get("seconds", 0))
        for text in texts.values():
            flag = Path(self._recipe.model) / KILLS_ONCE
            if KILLS in text or (KILLS_ONCE in text and not flag.exists()):
                if KILLS_ONCE in text:
                    flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if FILLS_DISK in text and not (Path(self._recipe.model) / FILLS_DISK).exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if FAILS in text:
                raise RuntimeError("CUDA error: the device is gone")
        # The size of the batch would show if a row was generated in another one.
        return {place: Answer([text[::-1]], [len(batch)], None) for place, text in texts.items()}


def forked(work: Callable[[], object]) -> int:
    """Works in a copy of this process, whose status is 0 if that succeeds; returns its number."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return process


def leave_journals() -> None:
    """Closes, in a process that was forked, the journals that it shares with its parent."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if ".run/" in os.readlink(f"/proc/self/fd/{descriptor}"):
                os.close(int(descriptor))


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Writes a file of JSON lines; what is text already is a line as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved_model(folder: Path, name: str = "bart") -> Path:
    """A tiny random model and its tokenizer, as Transformers saves them."""
    model_of(name).save_pretrained(folder)
    tokenizer_of(name).save_pretrained(folder)
    return folder
