"""Turns a model of Transformers into its EL-attention form, in place."""

from __future__ import annotations

import logging
from typing import TypeVar

from transformers import PreTrainedModel
from transformers.generation import GenerationMixin

from el_attention.attention import PLAN_CHOICES
from el_attention.decoder import NarrowWeights
from el_attention.specialize import specialize
from el_attention.transformers_plugin.families import family_of, unserved_family
from el_attention.transformers_plugin.freed import free
from el_attention.transformers_plugin.model import ELModel

T = TypeVar("T", bound=PreTrainedModel)

logger = logging.getLogger(__name__)


def convert(
    target: T,
    plan: str = "auto",
    memory_budget: int | None = None,
    *,
    generation_only: bool = False,
) -> T:
    """Makes a model of Transformers use EL-attention when it generates.

    The object is changed in place and stays what it was: same parameters, same name of its class,
    same results.  A model of a family that is not served is left as it is, and a warning says why;
    a run of `generate` that is not served takes the way of Transformers, and a line in the log
    says why, once.

    Args:
        target: a model.
        plan: "auto", "expanded-query" or "shared-projection".
        memory_budget: bytes that "auto" plans for, beyond what is loaded; None for what is free.
        generation_only: whether the model is there to generate: float32 weights of the decoder that
            16 bits hold exactly are kept so alone, on a CPU, until something else reads them.

    Returns:
        `target`.

    Raises:
        TypeError: if `target` is something else, or cannot generate.
        ValueError: if there is no such plan.
    """
    if plan not in PLAN_CHOICES:
        raise ValueError(f"attention plan: expected one of {PLAN_CHOICES}, got {plan!r}")
    if not (isinstance(target, PreTrainedModel) and isinstance(target, GenerationMixin)):
        raise TypeError(f"convert: expected a model that generates, got {type(target).__name__}")
    if family_of(target) is None:
        logger.warning(f"generation by Transformers, because {unserved_family(target)}")
        return target
    model = specialize(target, ELModel)
    assert isinstance(model, ELModel)
    model.el_plan, model.el_memory_budget, model.el_announced = plan, memory_budget, set()
    model.el_narrow = NarrowWeights()
    if generation_only:
        free(model)
    return target
