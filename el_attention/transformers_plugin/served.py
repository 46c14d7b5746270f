"""Which runs of `generate` are served, and why others take stock's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import GenerationConfig, GenerationMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from el_attention import plain
from el_attention.transformers_plugin.families import family_of, unserved_family

MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)
# The arguments of a model's forward that a run may have.
ARGUMENTS = (
    "attention_mask",
    "cache_position",
    "decoder_attention_mask",
    "decoder_position_ids",
    "encoder_outputs",
    "logits_to_keep",
    "position_ids",
    "return_dict",
    "use_cache",
)

# What acts in training: layers of Transformers, which drop states by themselves, and these.
_OF_TRAINING = (nn.modules.dropout._DropoutNd, nn.RReLU)

# What the searches of Transformers pass on to a forward that has no use for it.
PASSED_ON = ("assistant_tokenizer", "tokenizer")


def unserved_model(model: Any) -> str | None:
    """Returns why no run of a converted model is served, or None."""
    family = family_of(model)
    if family is None:
        return unserved_family(model)
    if hasattr(model, "_reorder_cache"):
        return "it reorders its cache in its own way"
    for name, module in model.named_modules():
        if module.training and _acts_in_training(module):
            return f"{name or 'it'} is in training"
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return "there are hooks on all modules"
    if "forward" in vars(model) or plain.has_hooks(model):
        return "it has a forward of its own, or hooks"
    for name in ("hf_quantizer", "hf_device_map", "_tp_plan_applied", "_compiled_call_impl"):
        if getattr(model, name, None) is not None:
            return f"it has a {name}"
    return family.unsupported(model) or _unserved_attention(model) or _unserved_weights(model)


def unserved_run(
    config: GenerationConfig,
    arguments: Mapping[str, Any],
    mode: GenerationMode | None,
    has_encoder: bool,
) -> str | None:
    """Returns why a run is not served, whatever the model, or None.

    Args:
        config: the config of the run.
        arguments: the arguments of the model's forward.
        mode: the kind of search.
        has_encoder: whether the model has an encoder.
    """
    if mode not in MODES:
        return f"the search is {'unknown' if mode is None else mode.value}"
    for name in ("output_attentions", "output_hidden_states", "cache_implementation"):
        if getattr(config, name, None):
            return f"{name} was asked for"
    for name in ("is_assistant", "prefill_chunk_size"):
        if getattr(config, name, None):
            return f"{name} is set"
    for name, value in arguments.items():
        is_known = name in ARGUMENTS and (has_encoder or name != "encoder_outputs")
        if not is_known and value is not None and value is not False:
            return f"the model was given {name}"
    if torch.is_grad_enabled():
        return "gradients are asked for"
    mask = arguments.get("decoder_attention_mask" if has_encoder else "attention_mask")
    if mask is None:
        return None
    if not _is_binary(mask):
        return "the attention mask of the prompts is not two-dimensional, of zeros and ones"
    if not bool(mask.any(1).all()):
        return "a prompt is all padding"
    return None


def unserved_source(states: Any, mask: Tensor | None) -> str | None:
    """Returns why a source is not served, or None.

    Args:
        states: the states of the encoder.
        mask: zero at padding, or None.
    """
    if not (isinstance(states, Tensor) and states.dim() == 3):
        return "the encoder output is not [sentences, tokens, width]"
    if mask is None:
        return None
    if not _is_binary(mask):
        return "the attention mask is not two-dimensional, of zeros and ones"
    if mask.size(1) != states.size(1):
        return "the attention mask is not as long as the encoder output"
    if not bool(mask.any(1).all()):
        return "a sentence is all padding"
    return None


def unserved_distances(arguments: Mapping[str, Any]) -> str | None:
    """Returns why the attention of a language model may see less far than by position, or None.

    Transformers counts tokens with the padding, the runtime by their positions.

    Args:
        arguments: the arguments of the model's forward.
    """
    mask, positions = arguments.get("attention_mask"), arguments.get("position_ids")
    if positions is None:
        if mask is None:
            return None
        positions = mask.long().cumsum(1) - 1
    # The next token goes on after the last one, be that padding or not.
    shift = positions - torch.arange(positions.size(1), device=positions.device)
    differs = shift[:, :-1] != shift[:, -1:]
    if mask is not None:
        differs = differs & (mask[:, :-1] != 0)
    if bool(differs.any()):
        return "a prompt has padding behind or within it, or positions that do not just follow"
    return None


def _is_binary(mask: Tensor) -> bool:
    return mask.dim() == 2 and bool(((mask == 0) | (mask == 1)).all())


def shares_encoder_output(arguments: Mapping[str, Any]) -> bool:
    """Whether the encoder output is repeated for the beams only after a run proves unserved."""
    return isinstance(arguments.get("encoder_outputs"), ModelOutput) and not any(
        isinstance(value, Cache) for value in arguments.values()
    )


def _acts_in_training(module: nn.Module) -> bool:
    return isinstance(module, _OF_TRAINING) or type(module).__module__.startswith(
        "transformers.models."
    )


def _unserved_attention(model: nn.Module) -> str | None:
    """Returns the reason if an attention is computed by what a user has registered, or None."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    for name in {getattr(config, "_attn_implementation", None) for config in configs.values()}:
        for functions in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
            function = functions.get(name)
            if function is not None and not function.__module__.startswith("transformers."):
                return f"the attention {name} is of {function.__module__}"
    return None


def _unserved_weights(model: nn.Module) -> str | None:
    first = next(model.parameters())
    if first.is_meta or not first.is_floating_point():
        return "its weights are on meta, or no floating-point numbers"
    if torch.is_autocast_enabled(first.device.type):
        return "autocast is on"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if type(tensor) not in (nn.Parameter, nn.Buffer, Tensor):
            return f"{name} is a {type(tensor).__name__}"
        if tensor.device != first.device or (
            tensor.is_floating_point() and tensor.dtype != first.dtype
        ):
            return f"{name} is {tensor.dtype} on {tensor.device}, others are {first.dtype} on " + (
                str(first.device)
            )
    return None
