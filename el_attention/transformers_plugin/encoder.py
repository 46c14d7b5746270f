"""The encoder of a run: on a CPU in parts of the batch, which need less memory and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.modules import module as hooks

from el_attention import plain
from el_attention.cost import PART_TOKENS

# Modules whose result for a sentence does not depend on the others.
_KNOWN = ("torch.nn.modules.", "transformers.models.", "transformers.activations")

_MASK = "attention_mask"  # [sentences, S]
_NOT_READ = ("decoder_", "cross_attn")  # what arguments begin with that no encoder reads


def encoded(
    encode: Callable[[Tensor, dict[str, Any]], dict[str, Any]],
    encoder: Any,
    inputs: Tensor,
    arguments: dict[str, Any],
) -> dict[str, Any]:
    """Encodes the sources of a run.

    Args:
        encode: adds encoder outputs to the arguments of a model's forward, for its inputs.
        encoder: the encoder of the model.
        inputs: [sentences, ...], tokens or features.
        arguments: the arguments of the forward.

    Returns:
        What `encode` does; [sentences, S, K] is made of parts.
    """
    sentences, size = len(inputs), _at_once(encoder, inputs)
    others = {
        name
        for name, value in arguments.items()
        if isinstance(value, Tensor) and name != _MASK and not name.startswith(_NOT_READ)
    }
    if size == sentences or others:  # which axis of the others is that of sentences is not known
        return encode(inputs, arguments)
    whole, found = None, None
    for first in range(0, sentences, size):
        part = slice(first, first + size)
        mask = arguments.get(_MASK)
        own = arguments if mask is None else {**arguments, _MASK: mask[part]}
        found = encode(inputs[part], own)["encoder_outputs"]
        if set(found) != {"last_hidden_state"}:
            return encode(inputs, arguments)
        states = found.last_hidden_state
        if whole is None:
            whole = states.new_empty(sentences, *states.shape[1:])
        whole[part] = states
    assert found is not None
    found.last_hidden_state = whole
    return {**arguments, "encoder_outputs": found}


def _at_once(encoder: Any, inputs: Tensor) -> int:
    """How many sentences to encode at a time."""
    if (
        inputs.device.type != "cpu"
        or hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or not all(
            type(module).__module__.startswith(_KNOWN)
            and not module.training
            and "forward" not in vars(module)
            and not plain.has_hooks(module)
            for module in encoder.modules()
        )
    ):
        return len(inputs)
    return max(1, min(len(inputs), PART_TOKENS // max(inputs.shape[1:])))
