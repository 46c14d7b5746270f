"""Models that are there to generate: their float32 weights go where a 16-bit one says the same.

Memory that falls is the gain; steps read the narrow weights that they read before.  Whatever else
needs a weight (another forward, training, saving, moving) finds the whole model again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from el_attention.decoder.narrow import reads_narrow
from el_attention.decoder.specs import Affine, AttentionSpec, DecoderSpec
from el_attention.ops import narrowed
from el_attention.robust.memory import trim_heap
from el_attention.specialize import SameName, specialize

if TYPE_CHECKING:
    from torch.nn import Module as _Module
else:
    _Module = object

logger = logging.getLogger(__name__)


class FreedModule(SameName, _Module):
    """A module whose weight is there in 16 bits alone, until something reads it.

    Attributes:
        el_narrow: the narrow weight.
        el_freed: all weights that were freed together, and come back together.
    """

    el_narrow: Tensor
    el_freed: FreedWeights

    @property
    def weight(self) -> Any:
        """The parameter: reading it restores the model."""
        self.restore()
        return self.weight

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            self.restore()
            setattr(self, name, value)
        else:
            super().__setattr__(name, value)

    def restore(self) -> None:
        """Restores all weights that were freed together; this module is of its class again."""
        self.el_freed.restore()

    def train(self, mode: bool = True) -> Any:
        """Restores the model for training."""
        if not mode:
            return super().train(False)
        self.restore()
        return self.train(True)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.restore()
        return self._apply(*args, **kwargs)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.restore()
        self._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.restore()
        self._load_from_state_dict(*args, **kwargs)


class FreedEmbedding(FreedModule):
    """Token embeddings, which an encoder may share, looked up in 16 bits."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns float32 [..., E] for int64 [...]."""
        return F.embedding(input, self.el_narrow).float()


Kinds = Mapping[type[nn.Module], type[FreedModule]]

# Modules that can be without their weight, and what they become.
KINDS: Kinds = {nn.Linear: FreedModule, nn.Embedding: FreedEmbedding}


@dataclass
class _Freed:
    parameter: nn.Parameter  # empty meanwhile; it stays the one that others know
    narrow: Tensor
    holders: list[nn.Module]


class FreedWeights:
    """Weights of a model that were freed together."""

    def __init__(self) -> None:
        """Begins with none."""
        self._freed: list[_Freed] = []

    def free(self, parameter: nn.Parameter, holders: list[nn.Module], kinds: Kinds) -> None:
        """Frees a weight, if it has the values of a narrow one.

        Args:
            parameter: float32, on a CPU.
            holders: all modules whose weight it is, each of one of `kinds`.
            kinds: what these become.
        """
        narrow = narrowed(parameter)
        if narrow is None:
            return
        self._freed.append(_Freed(parameter, narrow, holders))
        parameter.data = parameter.data.new_empty(0)
        for module in holders:
            module._parameters["weight"] = None
            kind = kinds[type(module)]
            freed = specialize(module, kind)
            assert isinstance(freed, FreedModule)
            freed.el_narrow, freed.el_freed = narrow, self

    def restore(self) -> None:
        """Lets the modules have their weights back, with the same bits."""
        freed, self._freed = self._freed, []
        for each in freed:
            each.parameter.data = each.narrow.float()
            for module in each.holders:
                super(FreedModule, module).restore()  # type: ignore[misc]
                module._parameters["weight"] = each.parameter
        logger.info("weights of the decoder: all in float32 again, because something reads them")


def free_weights(model: nn.Module, spec: DecoderSpec, kinds: Kinds = KINDS) -> None:
    """Frees the float32 weights of a model that its steps can read in 16 bits.

    The weights of keys and values stay, because an expanded query is multiplied by them; so do
    those that modules of other kinds hold, too, and those that are trained.

    Args:
        model: a model in evaluation mode.
        spec: describes its decoder.
        kinds: modules that can be without their weight, and what they become.
    """
    if not reads_narrow(spec):
        return
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(parameter, []).append((module, name))
    read = {_place(tensor) for tensor in _read_by_rows(spec)}
    kept = {tensor.untyped_storage().data_ptr() for tensor in _keys_and_values(spec)}
    together = FreedWeights()
    for parameter, places in holders.items():
        storage = parameter.untyped_storage()
        if (
            _place(parameter) in read
            and storage.data_ptr() not in kept
            and storage.nbytes() == parameter.nbytes  # else others share its memory
            and parameter.dtype == torch.float32
            and parameter.grad is None
            and all(name == "weight" and _can_free(module, kinds) for module, name in places)
        ):
            together.free(parameter, [module for module, _ in places], kinds)
    trim_heap()


def stored_weight(module: nn.Module) -> Tensor:
    """Returns the weight of a module as it is kept: its parameter, or a narrow weight alone."""
    weight = module.el_narrow if isinstance(module, FreedModule) else module.weight
    assert isinstance(weight, Tensor)
    return weight


def weight_dtype(module: nn.Module) -> torch.dtype:
    """Returns the dtype of the weight of a module, whether it is freed or not."""
    return torch.float32 if isinstance(module, FreedModule) else stored_weight(module).dtype


def _can_free(module: nn.Module, kinds: Kinds) -> bool:
    return type(module) in kinds and getattr(module, "max_norm", None) is None


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _read_by_rows(spec: DecoderSpec) -> Iterator[Tensor]:
    """Yields what steps read as the operator `linear` does, and the token embeddings."""
    yield spec.embedding.tokens
    for affine in _affines(spec):
        yield affine.weight


def _keys_and_values(spec: DecoderSpec) -> Iterator[Tensor]:
    for layer in spec.layers:
        for attention in (layer.self_attn, layer.cross_attn):
            if attention is not None:
                yield attention.key.weight
                yield attention.value.weight


def _affines(part: Any) -> Iterator[Affine]:
    """Yields the affine layers of a spec but keys' and values', as often as they stand there."""
    if isinstance(part, Affine):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _affines(item)
    elif is_dataclass(part):
        for field in fields(part):
            if not (isinstance(part, AttentionSpec) and field.name in ("key", "value")):
                yield from _affines(getattr(part, field.name))
