"""Bytes that a generation needs, from formulas alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

from el_attention.cost.architecture import Architecture
from el_attention.cost.device import GIB, Device
from el_attention.cost.plans import Plans
from el_attention.cost.workload import Workload

# What a process holds before the first tensor (CUDA context, cuBLAS and cuDNN workspaces), and the
# share of memory that a caching allocator cannot use. Assumed, not fitted.
CONTEXT_BYTES = 0.75 * GIB
FRAGMENTATION = 0.05
# Tokens of sources or prompts that are encoded at a time on a CPU, where more are no faster: 32
# sources of 512 tokens, BART base: 5.9 s by two, 6.4 s by four, 7.4 s at once.
PART_TOKENS = 2**10
# Logits of a prompt that are in memory at a time, at most.
PROMPT_LOGITS = 2**22


@dataclass(frozen=True)
class Memory:
    """Bytes at the last step of a generation, when states are longest.

    Attributes:
        weights: the weights of the model.
        input_states: what attention reads of sources or prompts; the paper's table.
        outputs: encoder outputs kept beside that.
        self_states: the states of generated tokens.
        decoding: temporaries of the step; of those that are never alive together, the largest.
        encoding: the pass over sources or prompts, before there is anything else but weights.
    """

    weights: float
    input_states: float
    outputs: float
    self_states: float
    decoding: float
    encoding: float

    @property
    def states(self) -> float:
        """Bytes that live as long as the generation, weights left out."""
        return self.input_states + self.outputs + self.self_states

    @property
    def peak(self) -> float:
        """Bytes alive at the worst moment."""
        return self.weights + max(self.encoding, self.states + self.decoding)

    def table(self) -> dict[str, float]:
        """Returns the parts by name, in bytes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def usable(device: Device, context: bool = True) -> float:
    """Returns the bytes of a device that tensors can have.

    Args:
        device: the device and its memory.
        context: whether a process needs a context there, as on a GPU.
    """
    return (device.memory - CONTEXT_BYTES * context) * (1 - FRAGMENTATION)


def narrow_weights(arch: Architecture) -> float:
    """Returns the bytes of 16-bit copies of the weights that the steps of a model read.

    A float32 model has them on a CPU, beside its weights, where they are exact.
    """
    return 2.0 * arch.decoder_matrices


def input_states(arch: Architecture, plans: Plans, load: Workload) -> float:
    """Returns the bytes of the states that sources or prompts leave for attention to read.

    Keys and values: 2 x layers x sentences x S x d. States themselves: sentences x S x d, in each
    layer for a language model, once for all layers behind an encoder.
    """
    position = load.source * load.item
    if plans.expanded:
        layers = 1 if arch.encoder else arch.decoder.layers
        return layers * load.batch * position * arch.source_width
    return 2 * arch.decoder.layers * load.batch * position * arch.decoder.width


def self_states(arch: Architecture, plans: Plans, load: Workload) -> float:
    """Returns the bytes of the states of generated tokens, of beams that share no ancestors."""
    token = arch.decoder.width * load.item
    return (
        (1 if plans.self_expanded else 2) * arch.decoder.layers * load.rows * load.last_end * token
    )


def memory_of(arch: Architecture, plans: Plans, load: Workload) -> Memory:
    """Returns the memory of a generation.

    Args:
        arch: the model.
        plans: the plans of its attentions.
        load: what is generated.
    """
    has_output = arch.encoder is not None and not plans.expanded
    output = load.batch * load.source * arch.source_width * load.item
    return Memory(
        weights=arch.weights * load.item,
        input_states=input_states(arch, plans, load),
        outputs=output if has_output else 0.0,
        self_states=self_states(arch, plans, load),
        decoding=_decoding(arch, plans, load),
        encoding=_encoding(arch, plans, load),
    )


def _decoding(arch: Architecture, plans: Plans, load: Workload) -> float:
    """Temporaries of a step: of attention, of the vocabulary."""
    attention = 0.0
    if plans.expanded:
        attention = 4 * load.rows * arch.decoder.heads * arch.source_width * load.item
    # Logits, and what search makes of them in float32.
    return max(attention, load.rows * arch.vocabulary * (load.item + 12))


def _encoding(arch: Architecture, plans: Plans, load: Workload) -> float:
    """Temporaries of the pass over sources or prompts, and what it leaves."""
    item, sentences = load.item, load.batch
    stack = arch.encoder or arch.decoder
    at_once = sentences
    if plans.part_tokens is not None:
        at_once = min(sentences, max(1, plans.part_tokens // load.source))
    # The residual stream, its normalised copy, queries, keys and values; or the ffn's inner layer.
    widths = 2 * stack.width + max(3 * stack.width, stack.inner * stack.ffn)
    if arch.encoder is not None:
        if at_once < sentences:
            widths += stack.width  # the layer's input, where `left` does not stand for it
        left = sentences * load.source * arch.source_width * item
        return left + at_once * load.source * widths * item
    stream = max(at_once * load.source * widths, sentences * arch.vocabulary)
    kept = input_states(arch, plans, load)
    hidden = sentences * load.source * stack.width
    # The layers' inputs, from which states are made afterwards, and their outputs, which fairseq
    # collects; first with a layer's temporaries and the mask, then with states.
    part = at_once * load.source * stack.width
    collected = (2 * stack.layers + 1) * part
    if at_once < sentences:  # the states of a layer are moved to those of all sentences
        within = kept / item + hidden + collected + max(stream + load.source**2, 2 * part)
    else:
        within = collected + max(stream + load.source**2, kept / item)
    # Then the tokens of the prompt are scored, some at a time.
    logits = min(PROMPT_LOGITS, sentences * load.source * arch.vocabulary)
    return max(within, kept / item + 2 * hidden + logits) * item
