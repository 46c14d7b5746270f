"""What stands for the hypotheses of a sentence that is not answered."""

from __future__ import annotations

import math
from typing import Any

import torch

ANSWER = "it is answered with an empty hypothesis of score -inf"  # for the warning


def refusal(device: torch.device) -> list[dict[str, Any]]:
    """Returns one empty hypothesis of score -inf, which fairseq's programs print."""
    nothing = torch.empty(0, device=device)
    return [
        {
            "tokens": nothing.long(),
            "score": torch.tensor(-math.inf, device=device),
            "positional_scores": nothing,
            "attention": nothing,
            "alignment": nothing,
        }
    ]


def is_refusal(hypotheses: list[dict[str, Any]]) -> bool:
    """Whether hypotheses are those of `refusal`; all others have at least an end, or no tokens."""
    if len(hypotheses) != 1 or "tokens" not in hypotheses[0]:
        return False
    return len(hypotheses[0]["tokens"]) == 0
