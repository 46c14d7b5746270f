"""Turns what fairseq has built into its EL-attention form, whatever it is."""

from __future__ import annotations

from typing import TypeVar

from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import SequenceGenerator

from el_attention.attention import PLAN_CHOICES
from el_attention.fairseq_plugin.conversion import convert_generator, convert_model, free_models
from el_attention.fairseq_plugin.hub import ELHub
from el_attention.fairseq_plugin.task import ELTask
from el_attention.plain import original
from el_attention.specialize import specialize

T = TypeVar("T", BaseFairseqModel, GeneratorHubInterface, SequenceGenerator)


def convert(
    target: T,
    plan: str = "auto",
    memory_budget: int | None = None,
    *,
    generation_only: bool = False,
) -> T:
    """Makes a model, a hub interface or a generator use EL-attention when it generates.

    The object is changed in place and stays what it was: same parameters and names, same results.
    Training and scoring are fairseq's own.  A model that cannot be converted is left as it is, and
    one warning says why.

    Args:
        target: a fairseq model, also one that `torch.compile`, `DataParallel` or
            `DistributedDataParallel` has wrapped; the result of
            `from_pretrained`; or a `SequenceGenerator`, whose models are converted too.
        plan: "auto", "expanded-query" or "shared-projection".
        memory_budget: bytes that "auto" plans for, beyond what is loaded; None for what is free.
        generation_only: whether the model is there to generate: float32 weights of the decoder that
            16 bits hold exactly are kept so alone, on a CPU, until something else reads them.

    Returns:
        `target`.

    Raises:
        TypeError: if `target` is something else.
        ValueError: if there is no such plan, or a generator's beam is not positive.
    """
    if plan not in PLAN_CHOICES:
        raise ValueError(f"attention plan: expected one of {PLAN_CHOICES}, got {plan!r}")
    if isinstance(target, GeneratorHubInterface):
        task = specialize(target.task, ELTask)
        task.el_plan, task.el_memory_budget = plan, memory_budget
        specialize(target, ELHub)
        models = list(target.models)
        for model in models:
            convert_model(model, plan, memory_budget)
    elif isinstance(target, SequenceGenerator):
        models = list(target.model.models)
        convert_generator(target, plan, memory_budget)
    elif isinstance(original(target), BaseFairseqModel):
        models = [target]
        convert_model(original(target), plan, memory_budget)
    else:
        raise TypeError(
            "convert: expected a fairseq model, a hub interface or a SequenceGenerator, "
            f"got {type(original(target)).__name__}"
        )
    if generation_only:
        free_models(models)
    return target
