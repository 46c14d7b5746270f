"""Bytes that a generation needs, from formulas alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

from el_attention.cost.architecture import Architecture
from el_attention.cost.device import GIB, Device
from el_attention.cost.system import System
from el_attention.cost.workload import Workload

# What a process holds before the first tensor (CUDA context, cuBLAS and cuDNN workspaces), and the
# share of memory that a caching allocator cannot use. Assumed, not fitted.
CONTEXT_BYTES = 0.75 * GIB
FRAGMENTATION = 0.05
# Tokens of sources or prompts that this package encodes at a time on a CPU, where more are no
# faster: 32 sources of 512 tokens, BART base: 5.9 s by two, 6.4 s by four, 7.4 s at once.
PART_TOKENS = 2**10
# Logits of a prompt that this package has at a time, at most.
PROMPT_LOGITS = 2**22


@dataclass(frozen=True)
class Memory:
    """Bytes at the last step of a generation, when states are longest.

    Attributes:
        weights: of the model.
        input_states: what attention reads of sources or prompts; the paper's table.
        outputs: encoder outputs kept beside that, embeddings included.
        self_states: of generated tokens.
        record: of attention weights.
        decoding: temporaries of the step, the largest of those that are not alive together.
        encoding: the pass over sources or prompts, before there is anything else but weights.
    """

    weights: float
    input_states: float
    outputs: float
    self_states: float
    record: float
    decoding: float
    encoding: float

    @property
    def states(self) -> float:
        """Bytes that live as long as the generation, weights left out."""
        return self.input_states + self.outputs + self.self_states + self.record

    @property
    def peak(self) -> float:
        """Bytes alive at the worst moment."""
        return self.weights + max(self.encoding, self.states + self.decoding)

    def fits(self, device: Device) -> bool:
        """Whether a process with these tensors runs on `device`."""
        return self.peak <= usable(device)

    def table(self) -> dict[str, float]:
        """Returns the parts by name, in bytes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def usable(device: Device, context: bool = True) -> float:
    """Returns the bytes of a device that tensors can have.

    Args:
        device: with its memory.
        context: whether a process needs a context there, as on a GPU.
    """
    return (device.memory - CONTEXT_BYTES * context) * (1 - FRAGMENTATION)


def input_states(arch: Architecture, system: System, load: Workload) -> float:
    """Returns the bytes of the states that sources or prompts leave for attention to read.

    Keys and values: 2 x layers x rows x S x d. States themselves: sentences x S x d, in each layer
    for a language model, once for all layers behind an encoder.
    """
    copies = load.rows if system.per_beam else load.batch
    position = load.source * load.item
    if system.expanded:
        layers = 1 if arch.encoder else arch.decoder.layers
        return layers * copies * position * arch.source_width
    return 2 * arch.decoder.layers * copies * position * arch.decoder.width


def memory_of(arch: Architecture, system: System, load: Workload) -> Memory:
    """Returns the memory of a generation.

    Args:
        arch: the model.
        system: the generator.
        load: what is generated.
    """
    item, rows, length = load.item, load.rows, load.last_end
    copies = rows if system.per_beam else load.batch
    output = copies * load.source * arch.source_width * item if arch.encoder else 0.0
    token = arch.decoder.width * item
    generated = (1 if system.self_expanded else 2) * arch.decoder.layers * rows * length * token
    return Memory(
        weights=arch.weights * item,
        input_states=input_states(arch, system, load) if system.cached else 0.0,
        outputs=system.outputs * output,
        self_states=generated if system.cached else 0.0,
        record=2.0 * rows * load.source * (length + 2) * 4 if system.records_attention else 0.0,
        decoding=_decoding(arch, system, load, generated),
        encoding=_encoding(arch, system, load),
    )


def largest_batch(
    arch: Architecture, system: System, load: Workload, device: Device, sizes: list[int]
) -> int:
    """Returns the largest of `sizes` with which `load` fits `device`, or 0 if none does.

    Args:
        arch: the model.
        system: the generator.
        load: what is generated; its own batch does not matter.
        device: what it runs on.
        sizes: batches to try, sentences.
    """
    fitting = [
        size for size in sizes if memory_of(arch, system, load.with_batch(size)).fits(device)
    ]
    return max(fitting, default=0)


def _decoding(arch: Architecture, system: System, load: Workload, generated: float) -> float:
    """Temporaries of a step: of attention, of the vocabulary, of reordering."""
    item, rows = load.item, load.rows
    queries = 1 if system.cached else load.last_end
    # Masked scores, softmax in float32 and its copy; logits, log-softmax in float32, its sum with
    # the scores of the hypotheses and a masked copy.
    score_bytes = 0 if system.fused else 2 * item + 4
    attention = rows * queries * arch.decoder.heads * load.source * score_bytes
    if system.expanded:
        attention += 4 * rows * arch.decoder.heads * arch.source_width * item
    vocabulary = rows * arch.vocabulary * (queries * item + 12)
    copies = rows if system.per_beam else load.batch
    layer = copies * load.source * arch.decoder.width * item
    if not system.cached:
        inner = arch.decoder.layers * rows * queries * arch.decoder.width * item
        return max(attention + 2 * layer, vocabulary) + inner
    reordering = 0.0
    if system.double_buffered:
        reordering = generated + (input_states(arch, system, load) if system.source_append else 0)
    elif system.source_reorder or system.outputs_reorder:
        reordering = layer
    elif system.self_reorder:
        reordering = generated / (2 * arch.decoder.layers)
    return max(attention, vocabulary) + reordering


def _encoding(arch: Architecture, system: System, load: Workload) -> float:
    """Temporaries of the pass over sources or prompts, and what it leaves."""
    if arch.encoder is None and not system.prompt_at_once:
        return 0.0
    item = load.item
    stack = arch.encoder or arch.decoder
    sentences = load.rows if arch.encoder is None and system.per_beam else load.batch
    scores = stack.heads * load.source**2
    at_once = sentences
    if system.part_tokens is not None:
        at_once = min(sentences, max(1, system.part_tokens // load.source))
    if system.encoder_scores is not None:
        at_once = min(sentences, max(1, system.encoder_scores // scores))
    # The residual stream, its normalised copy, queries, keys and values; or the ffn's inner layer.
    widths = 2 * stack.width + max(3 * stack.width, stack.inner * stack.ffn)
    if arch.encoder is not None and at_once < sentences:
        widths += stack.width  # the layer's input, where `left` does not stand for it
    stream = at_once * load.source * widths
    left: float = sentences * load.source * arch.source_width * item
    if arch.encoder is None:
        positions = load.source if system.all_logits else 1
        stream = max(stream, sentences * positions * arch.vocabulary)
        left = input_states(arch, system, load)
    if system.encoder_fused:
        if arch.encoder is None:
            hidden = sentences * load.source * stack.width
            # The layers' inputs, from which states are made afterwards, and their outputs, which
            # fairseq collects; first with a layer's temporaries and the mask, then with states.
            part = at_once * load.source * stack.width
            collected = (2 * stack.layers + 1) * part
            if at_once < sentences:  # the states of a layer are moved to those of all sentences
                within = left / item + hidden + collected + max(stream + load.source**2, 2 * part)
            else:
                within = collected + max(stream + load.source**2, left / item)
            # Then the words of the prompt are scored, some at a time.
            logits = min(PROMPT_LOGITS, sentences * load.source * arch.vocabulary)
            return max(within, left / item + 2 * hidden + logits) * item
        return left + stream * item
    # Scores, their masked copy and softmax.
    return left + (stream + 3 * at_once * scores) * item
