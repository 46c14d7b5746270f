"""A fairseq task for random models: a vocabulary, and no data."""

from __future__ import annotations

from argparse import Namespace

from fairseq import tasks
from fairseq.data import Dictionary


class RandomTask(tasks.FairseqTask):
    """A task with one vocabulary for source and target, and no data."""

    def __init__(self, words: int) -> None:
        """Takes the number of words beside fairseq's special symbols."""
        super().__init__(Namespace())
        self.symbols = Dictionary()
        for index in range(words):
            self.symbols.add_symbol(f"w{index}")

    @property
    def source_dictionary(self) -> Dictionary:
        """The vocabulary."""
        return self.symbols

    target_dictionary = source_dictionary
