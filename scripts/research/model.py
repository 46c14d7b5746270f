"""Memory and time of any generator, beyond the cost model of this package's two plans."""

from __future__ import annotations

from dataclasses import dataclass, replace

from el_attention import cost
from el_attention.cost import Architecture, CostModel, Device, Memory, Seconds, Workload, usable
from el_attention.cost.memory import self_states
from el_attention.cost.timing import GROUP_OPERATIONS, SCORE_PASSES
from research.systems import System


@dataclass(frozen=True)
class SystemMemory(Memory):
    """Bytes at the last step of a generation, when states are longest.

    Attributes:
        record: the record of attention weights.
    """

    record: float

    @property
    def states(self) -> float:
        """Bytes that live as long as the generation, weights left out."""
        return super().states + self.record

    def fits(self, device: Device) -> bool:
        """Whether a process with these tensors runs on `device`."""
        return self.peak <= usable(device)


def input_states(arch: Architecture, system: System, load: Workload) -> float:
    """Returns the bytes of the states that sources or prompts leave for attention to read."""
    return cost.input_states(arch, system, load) * (load.beam if system.per_beam else 1)


def memory_of(arch: Architecture, system: System, load: Workload) -> SystemMemory:
    """Returns the memory of a generation.

    Args:
        arch: the model.
        system: the generator.
        load: what is generated.
    """
    copies = load.rows if system.per_beam else load.batch
    output = copies * load.source * arch.source_width * load.item if arch.encoder else 0.0
    record = 2.0 * load.rows * load.source * (load.last_end + 2) * 4
    return SystemMemory(
        weights=arch.weights * load.item,
        input_states=input_states(arch, system, load) if system.cached else 0.0,
        outputs=system.outputs * output,
        self_states=self_states(arch, system, load) if system.cached else 0.0,
        record=record if system.records_attention else 0.0,
        decoding=_decoding(arch, system, load),
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


def _decoding(arch: Architecture, system: System, load: Workload) -> float:
    """Temporaries of a step: of attention, of the vocabulary, of reordering."""
    item, rows = load.item, load.rows
    generated = self_states(arch, system, load)
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
    # Scores, their masked copy and softmax.
    return left + (stream + 3 * at_once * scores) * item


@dataclass(frozen=True)
class SystemSeconds(Seconds):
    """Time by what it is spent on; of a step or of a batch.

    Attributes:
        copying: states appended to and reordered.
    """

    copying: float = 0.0

    def table(self) -> dict[str, float]:
        """Returns the parts by name, the host's last."""
        parts = super().table()
        overhead = parts.pop("overhead")
        return {**parts, "overhead": overhead}


@dataclass(frozen=True)
class SystemModel(CostModel):
    """The cost model of any generator, on one device, for one workload.

    Attributes:
        plans: the generator.
    """

    plans: System

    def step(self, sentences: float, generated: float) -> SystemSeconds:
        """Returns the time of one step.

        Args:
            sentences: still active.
            generated: tokens generated before.
        """
        system, load = self.plans, self.load
        hypotheses = sentences * load.beam
        # Positions of each hypothesis that a step computes.
        rows = hypotheses * (1.0 if system.cached else generated + 1)
        device = SystemSeconds(
            linear=self._linear(rows),
            vocabulary=self._vocabulary(hypotheses, rows),
            attention=self._attention(
                hypotheses if system.per_beam else sentences, hypotheses, rows, generated
            ),
            copying=self._copying(sentences, generated),
        )
        if not system.cached:
            device = replace(device, linear=device.linear + self._projecting_again(hypotheses))
        search: float = system.step_operations + GROUP_OPERATIONS * (load.groups - 1)
        if load.beam > 1:
            search += system.row_operations * hypotheses
        overhead = self._overhead(device.total, system.layer_operations, search)
        return replace(device, overhead=overhead)

    def _projecting_again(self, hypotheses: float) -> float:
        """Keys and values of the source, where none are kept."""
        arch, item = self.arch, self.load.item
        _, states = arch.cross_weights
        flops = 2 * hypotheses * self.load.source * states
        return arch.decoder.layers * self._matmul(flops, states * item)

    def _read(self, expanded: bool, groups: float, rows: float, keys: float, width: float) -> float:
        if self.plans.fused:
            return super()._read(expanded, groups, rows, keys, width)
        scores = SCORE_PASSES * rows * self.arch.decoder.heads * keys * self.load.item
        # A state that is key and value is read by each of two products.
        passes = 2 if expanded else 1
        return self._stream(scores) + super()._read(expanded, passes * groups, rows, keys, width)

    def _expansion(self, rows: float, width: float, passes: int = 4) -> float:
        # Between plain products each is written and read once more, to be transposed.
        return super()._expansion(rows, width, passes if self.plans.fused else 2 * passes)

    def _copying(self, sentences: float, generated: float) -> float:
        arch, system, load = self.arch, self.plans, self.load
        reorders = load.beam > 1 or system.reorders_single
        moved = 0.0
        if system.cached:
            source = input_states(arch, system, load) / load.batch * sentences
            moved += source * (system.source_append + system.source_reorder * reorders)
            token = arch.decoder.width * load.item * (1 if system.self_expanded else 2)
            tokens = sentences * load.beam * generated * arch.decoder.layers * token
            moved += tokens * (system.self_append + system.self_reorder * reorders)
        if arch.encoder is not None:
            copies = sentences * (load.beam if system.per_beam else 1)
            output = copies * load.source * arch.source_width * load.item
            moved += output * system.outputs * system.outputs_reorder * reorders
        if system.records_attention:
            moved += 2 * 4 * sentences * load.beam * load.source * (generated + 2)
        return self._stream(moved)

    def _encoding(self) -> float:
        arch, system, load = self.arch, self.plans, self.load
        copies = load.rows if system.per_beam else load.batch
        if arch.encoder is None:
            if not system.prompt_at_once:
                half = replace(self, load=replace(load, source=(load.source + 1) // 2))
                return load.source * half.step(load.batch, 0).total
            logits = copies * (load.source if system.all_logits else 1) * arch.vocabulary
            return self._stack(copies) + self._matmul(
                2 * logits * arch.decoder.width, logits * load.item
            )
        time = self._stack(load.batch)
        if system.cached and not system.expanded:
            time += self._projection(copies)
        return time
