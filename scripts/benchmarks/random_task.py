"""Random models: their fairseq task, a vocabulary without data, and their weights."""

from __future__ import annotations

from argparse import Namespace

import torch
from fairseq import tasks
from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel


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


def make_decisive(model: BaseFairseqModel, width: int, source: float = 1.0) -> None:
    """Adds noise to all parameters, so that hypotheses depend on all states and hardly tie.

    Most of it to the embeddings: where attention drowns words and positions, hypotheses of the same
    words in another order are equally good.

    Args:
        model: the model of any family and size.
        width: the width of its residual stream.
        source: factor of the noise in the attention to the source, which is much the same at each
            step; less of it for long sources and large models.
    """
    for key, parameter in model.named_parameters():
        gain = 3.0 if "embed" in key else 0.1 if "norm" in key else 1.0
        gain *= source if "encoder_attn" in key else 1.0
        parameter.data += gain / width**0.5 * torch.randn_like(parameter)
