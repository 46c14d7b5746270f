"""Finished hypotheses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Hypothesis(NamedTuple):
    """A finished hypothesis of n tokens, the eos included.

    Attributes:
        tokens: int64 [n].
        score: [], what hypotheses are ranked by.
        positional_scores: [n], the log-probability of each token.
    """

    tokens: Tensor
    score: Tensor
    positional_scores: Tensor


def ranked(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Sorts the hypotheses of a sentence, best first; equals in the order of `torch.sort`."""
    scores = torch.stack([hypothesis.score for hypothesis in hypotheses]).float().cpu()
    return [hypotheses[index] for index in scores.sort(descending=True).indices.tolist()]
