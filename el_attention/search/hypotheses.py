"""Finished hypotheses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from el_attention.transfer import to_host


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


def ranked(found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Sorts the hypotheses of each sentence, best first; equals in the order of `torch.sort`."""
    if not found:
        return []
    scores = torch.stack([hypothesis.score for sentence in found for hypothesis in sentence])
    parts = to_host(scores.float())[0].split([len(sentence) for sentence in found])
    return [
        [sentence[index] for index in part.sort(descending=True).indices.tolist()]
        for sentence, part in zip(found, parts, strict=True)
    ]
