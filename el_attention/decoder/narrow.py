"""Narrow weights: 16-bit copies of a float32 model's weights, for its steps on a CPU.

A checkpoint that was trained with 16-bit weights holds numbers that float32 only pads.  A step of
few beams takes the time of reading the weights; from 16 bits it has the same results in half of it.
"""

from __future__ import annotations

import logging
from dataclasses import is_dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from el_attention.decoder.specs import Affine, DecoderSpec
from el_attention.ops import compiled, narrowed
from el_attention.robust.memory import free_bytes, in_units

logger = logging.getLogger(__name__)

T = TypeVar("T")

Place = tuple[int, torch.Size, tuple[int, ...]]

# Of free memory, how much new copies may take: the states of a generation need the rest.
_SHARE = 0.5


class NarrowWeights:
    """The narrow weights of one model, kept from one generation to the next.

    Each generation compares them with the model's own, bit by bit: a model may have been changed in
    ways that leave no trace.  What had none is looked at again if torch has recorded a change.
    """

    def __init__(self) -> None:
        """Begins with none."""
        self._kept: dict[Place, Tensor] = {}
        self._wide: dict[Place, int] = {}
        self._said: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the model looks at its own weights.
        return NarrowWeights, ()

    def added_to(self, spec: DecoderSpec) -> DecoderSpec:
        """Returns a spec with narrow weights beside the float32 ones that they are equal to.

        There are none where steps would not read them (another dtype or device, no compiled
        operators), and none that would take more than half of the free memory.  The log says how
        many there are, when that changes.

        Args:
            spec: the spec of the model as it is now.
        """
        looking = _Looking(spec.device, self._kept, self._wide)
        self._kept, self._wide = {}, looking.wide
        if not reads_narrow(spec):
            return spec
        result = _mapped(spec, looking, {})
        self._kept = {place: found for place, found in looking.found.items() if found is not None}
        self._say(looking)
        return result

    def _say(self, looking: _Looking) -> None:
        narrow = [*self._kept.values(), *looking.alone.values()]
        line = None
        if narrow:
            dtypes = {str(each.dtype).removeprefix("torch.") for each in narrow}
            line = (
                f"{len(narrow)} of {len(looking.found) + len(looking.alone)} are exactly "
                f"{' or '.join(sorted(dtypes))} and read as such: "
                f"{in_units(sum(each.nbytes for each in narrow))}, "
                f"{len(looking.alone)} of them in place of float32"
            )
        if looking.refused:
            line = f"{'' if line is None else line + '; '}no room for {looking.refused} others"
        if line is not None and line != self._said:
            logger.info(f"weights of the decoder: {line}")
        self._said = line


def reads_narrow(spec: DecoderSpec) -> bool:
    """Tells whether steps of a decoder read narrow weights."""
    tokens = spec.embedding.tokens.detach()
    return spec.dtype == torch.float32 and tokens.is_cpu and compiled.unsupported(tokens) is None


class _Looking:
    """Looks at the weights of a model, each once.

    Attributes:
        found: the narrow weights, or None where there is none.
        alone: the narrow weights that have no float32 one beside them.
        wide: the versions of weights that have no narrow one, as torch counts their changes.
        refused: how many there was no room for.
    """

    def __init__(
        self, device: torch.device, kept: dict[Place, Tensor], wide: dict[Place, int]
    ) -> None:
        self.found: dict[Place, Tensor | None] = {}
        self.alone: dict[Place, Tensor] = {}
        self.wide: dict[Place, int] = {}
        self.refused = 0
        self._device = device
        self._kept = kept
        self._known_wide = wide

    @cached_property
    def _room(self) -> int:
        return int(_SHARE * free_bytes(self._device))

    def __call__(self, affine: Affine) -> Affine:
        """Returns an affine layer with its narrow weight, if there is one."""
        weight = affine.weight
        place = weight.data_ptr(), weight.shape, weight.stride()
        if weight.dtype != torch.float32:
            self.alone[place] = weight
            return affine
        if place not in self.found:
            self.found[place] = self._look(place, weight.detach())
        narrow = self.found[place]
        return affine if narrow is None else replace(affine, narrow=narrow)

    def _look(self, place: Place, weight: Tensor) -> Tensor | None:
        kept = self._kept.get(place)
        version = None if weight.is_inference() else weight._version  # those have none
        if version is not None and self._known_wide.get(place) == version:
            self.wide[place] = version
            return None
        if kept is None and 2 * weight.numel() > self._room:
            self.refused += 1
            return None
        narrow = narrowed(weight, kept)
        if narrow is None and version is not None:
            self.wide[place] = version
        elif narrow is not None and kept is None:
            self._room -= narrow.nbytes
        return narrow


def _mapped(part: T, change: _Looking, seen: dict[int, Any]) -> T:
    """Returns a part of a spec with its affine layers changed; what is shared stays shared."""
    if id(part) not in seen:
        seen[id(part)] = _changed(part, change, seen)
    result: T = seen[id(part)]
    return result


def _changed(part: Any, change: _Looking, seen: dict[int, Any]) -> Any:
    if isinstance(part, Affine):
        return change(part)
    if type(part) is tuple:
        items = tuple(_mapped(item, change, seen) for item in part)
        return items if any(new is not old for new, old in zip(items, part, strict=True)) else part
    if not is_dataclass(part) or isinstance(part, type):
        return part
    before = vars(part)
    after = {name: _mapped(value, change, seen) for name, value in before.items()}
    different = {name: value for name, value in after.items() if value is not before[name]}
    return replace(part, **different) if different else part
