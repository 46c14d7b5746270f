"""What reads the caller's texts or sounds, before anything is generated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Reader(ABC):
    """Reads texts or sounds; what a model cannot read does not reach it."""

    @abstractmethod
    def read(self, thing: Any) -> Any:
        """Returns a text or sound as it is read, with a length, or a `str`: why it cannot be."""

    @abstractmethod
    def together(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Returns the arguments of `generate` for a batch of what was read, where the model is."""

    @abstractmethod
    def states(self, length: int) -> int:
        """Returns how many tokens or states a model attends to of a source of some length."""
