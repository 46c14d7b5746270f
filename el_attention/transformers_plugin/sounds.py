"""Sounds as features, and why nothing can be generated for some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from el_attention.transformers_plugin.family import Family
from el_attention.transformers_plugin.inputs import Reader


@dataclass(frozen=True)
class Sound:
    """A sound that a model can hear.

    Attributes:
        samples: float32 [n].
        length: the number of samples that it is padded to, if at all.
    """

    samples: Tensor
    length: int

    def __len__(self) -> int:
        return self.length


class Sounds(Reader):
    """Makes features of sounds; those of a batch have equally many samples, or are padded alike."""

    def __init__(self, model: Any, family: Family | None, extractor: Any, truncation: bool) -> None:
        """Takes what does not depend on the sound.

        Args:
            model: the model that is to hear it.
            family: the family of the model, or None.
            extractor: the model's extractor of features.
            truncation: whether sounds that are too long are cut.
        """
        self._model, self._family, self._extractor = model, family, extractor
        self._rate: int = extractor.sampling_rate
        # Whisper's extractor pads every sound to as many samples.
        self._longest: int | None = getattr(extractor, "n_samples", None)
        self._truncation = truncation

    def read(self, thing: Any) -> Sound | str:
        """Returns the samples of a sound, or why nothing is generated for it."""
        rate = self._rate
        if isinstance(thing, Mapping):
            if not {"array", "sampling_rate"} <= thing.keys():
                return f"expected a sound with array and sampling_rate, got {sorted(thing)}"
            thing, rate = thing["array"], thing["sampling_rate"]
        try:
            samples = torch.as_tensor(thing)
        except (TypeError, ValueError, RuntimeError):
            return f"expected a sound, got {type(thing).__name__}"
        if samples.dim() != 1 or not samples.is_floating_point():
            return f"expected samples [n] between -1 and 1, got {_form(samples)}"
        if rate != self._rate:
            return f"it has {rate} samples a second, expected {self._rate}"
        if len(samples) < self._rate // 40:
            return f"it is too short: {len(samples)} samples, a frame has {self._rate // 40}"
        if not bool(samples.isfinite().all()):
            return "it has samples that are infinite or no numbers"
        samples = samples.detach().to("cpu", torch.float32)
        length = len(samples)
        if self._longest is not None:
            if length > self._longest and not self._truncation:
                return (
                    f"it is too long: {length / rate:.1f} s, the model hears "
                    f"{self._longest / rate:.1f} s at once"
                )
            length = self._longest
        return Sound(samples, length)

    def together(self, rows: Sequence[Sound]) -> dict[str, Tensor]:
        """Returns features, and what else the extractor says of them."""
        found: list[Mapping[str, Tensor]] = [
            self._extractor(sound.samples.numpy(), sampling_rate=self._rate, return_tensors="pt")
            for sound in rows
        ]
        arguments = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        return {
            name: tensor.to(
                self._model.device, self._model.dtype if tensor.is_floating_point() else None
            )
            for name, tensor in arguments.items()
        }

    def states(self, length: int) -> int:
        """Returns how many states the encoder makes of `length` samples, at most."""
        frames = length * 100 // self._rate  # one each 10 ms
        return frames if self._family is None else self._family.encoded(self._model, frames)


def _form(samples: Tensor) -> str:
    return f"{str(samples.dtype).removeprefix('torch.')} {list(samples.shape)}"
