"""The state of torch's random numbers, as JSON, and the seeds of texts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

import torch


def random_state(device: torch.device) -> dict[str, str]:
    """Returns what random numbers on the CPU and on `device` continue from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: base64.b64encode(s.numpy().tobytes()).decode() for name, s in states.items()}


def set_random_state(device: torch.device, states: Mapping[str, str]) -> None:
    """Lets random numbers continue from what `random_state` returned."""
    for name, text in states.items():
        state = torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(state)
        elif device.type == "cuda":
            torch.cuda.set_rng_state(state, device)


def seed_of(seed: int, place: int) -> int:
    """Returns the seed of what is drawn for a text.

    Args:
        seed: the seed of the run.
        place: the place of the text among all, from 0.
    """
    return int.from_bytes(
        hashlib.blake2b(f"{seed} {place}".encode(), digest_size=7).digest(), "big"
    )
