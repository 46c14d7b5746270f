"""Steps of a layer in one call into C++, on a CPU: the same operators, without Python between."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from el_attention.attention import SELF, SOURCE, ExpandedQuery, Plan
from el_attention.decoder.specs import LayerSpec
from el_attention.ops import compiled
from el_attention.state import States

if TYPE_CHECKING:
    from el_attention._C import DecoderLayer, StepRows


def unsupported(spec: LayerSpec) -> str | None:
    """Returns why the steps of a layer cannot be one call, or None if they can."""
    attentions = [spec.self_attn, *([] if spec.cross_attn is None else [spec.cross_attn])]
    if any(attention.sinks for attention in attentions):
        return "there are keys and values outside the rows"
    weight = spec.self_attn.query.weight
    if not weight.is_cpu:
        return f"it is on {weight.device}"
    for tensor in _tensors(spec):
        if type(tensor) not in (Tensor, nn.Parameter):
            return f"a weight is a {type(tensor).__name__}"
        if tensor.device != weight.device:
            return f"it is on {weight.device} and {tensor.device}"
    with torch.no_grad():
        return compiled.unsupported(weight)


def compiled_layer(spec: LayerSpec, plans: Mapping[str, Plan]) -> DecoderLayer:
    """Returns the layer in C++, which is not `unsupported`.

    Args:
        spec: the spec of the layer.
        plans: the plan of each kind of attention.
    """
    expands = [isinstance(plans.get(kind), ExpandedQuery) for kind in (SELF, SOURCE)]
    made: DecoderLayer = importlib.import_module("el_attention._C").DecoderLayer(spec, *expands)
    return made


def step_rows(states: States) -> StepRows | None:
    """Returns what the layers share in the step that `states` has advanced to.

    None where gradients are on or forward mode is: a call into C++ has no derivative, whichever
    tensor asks for one (a weight, the source, the rows of earlier steps).
    """
    module = importlib.import_module("el_attention._C")
    if module.derivatives_are_on():
        return None
    made: StepRows = module.StepRows(
        states.tree.beam, states.mappings, states.view, states.source_view
    )
    return made


def _tensors(part: object) -> Iterator[Tensor]:
    """Yields the tensors of a spec."""
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part):
        for value in vars(part).values():
            yield from _tensors(value)
