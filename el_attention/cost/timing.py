"""Seconds that a generation takes: a roofline for each part of a step, and the host's overhead."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from el_attention.cost.architecture import Architecture
from el_attention.cost.device import Device
from el_attention.cost.memory import input_states
from el_attention.cost.system import System
from el_attention.cost.workload import Workload

# Passes over an attention score that is kept in memory: written, masked (read, write), softmax
# (read, write), read for the context.
SCORE_PASSES = 6
# Passes over float32 logits, after the model's own were written and read: log-softmax (write), sum
# with the scores of the hypotheses (read, write), top-k (read); diverse search's penalty (both).
LOGIT_PASSES, DIVERSITY_PASSES = 4, 2
# Numbers moved per row and layer by biases, residuals, norms and activations, in units of the width
# and of the ffn's width.
STREAM_WIDTHS, STREAM_FFNS = 24, 8


@dataclass(frozen=True)
class Rates:
    """What software reaches of a device.

    Attributes:
        half: share of peak FLOP/s in matrix products of float16 and bfloat16.
        single: share of peak FLOP/s in matrix products of float32.
        stream: share of peak bandwidth.
        operation_seconds: host time to call one operator from Python.
        batched: share of the above in products of many small matrices, as expanded queries need.
    """

    half: float
    single: float
    stream: float
    operation_seconds: float
    batched: float = 1.0


@dataclass(frozen=True)
class Seconds:
    """Time by what it is spent on; of a step or of a batch.

    Attributes:
        encoding: encoder or prompt, and keys and values of it; zero in a step.
        linear: layers' products with weights, norms and activations.
        vocabulary: projection, log-softmax and top-k.
        attention: expanding queries, scores, softmax, contexts.
        copying: states appended to and reordered.
        overhead: the device waits for the host.
    """

    encoding: float = 0.0
    linear: float = 0.0
    vocabulary: float = 0.0
    attention: float = 0.0
    copying: float = 0.0
    overhead: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self.table().values())

    def table(self) -> dict[str, float]:
        """Returns the parts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def plus(self, other: Seconds, times: float = 1.0) -> Seconds:
        """Returns the sum with `other`, taken `times` times."""
        theirs = other.table()
        return Seconds(**{name: mine + times * theirs[name] for name, mine in self.table().items()})


@dataclass(frozen=True)
class CostModel:
    """The cost model of one generator, on one device, for one workload.

    Attributes:
        arch: the model.
        system: the generator.
        load: what is generated.
        device: what it runs on.
        rates: what software reaches of the device.
    """

    arch: Architecture
    system: System
    load: Workload
    device: Device
    rates: Rates

    def sample_seconds(self) -> float:
        """Returns the seconds per sentence."""
        return self.batch().total / self.load.batch

    def batch(self) -> Seconds:
        """Returns the time of the whole batch."""
        total = Seconds(encoding=self._encoding())
        for steps, sentences, generated in self.load.phases():
            total = total.plus(self.step(sentences, generated), steps)
        return total

    def step(self, sentences: float, generated: float) -> Seconds:
        """Returns the time of one step.

        Args:
            sentences: still active.
            generated: tokens generated before.
        """
        device = Seconds(
            linear=self._linear(sentences, generated),
            vocabulary=self._vocabulary(sentences, generated),
            attention=self._attention(sentences, generated),
            copying=self._copying(sentences, generated),
        )
        # Search waits for the device once per step: its operators are called while that idles.
        # Those of the layers are called while it works.
        layers = self.arch.decoder.layers * self.system.layer_operations
        search = (
            self.system.step_operations
            + self.system.group_operations * (self.load.groups - 1)
            + (self.system.row_operations * sentences * self.load.beam if self.load.beam > 1 else 0)
        )
        call = self.rates.operation_seconds
        waiting = max(0.0, layers * call - device.total) + search * call
        return device.plus(Seconds(overhead=waiting))

    # The parts, in seconds of device time. `sentences` may be fractional: it is a mean.

    def _queries(self, generated: float) -> float:
        """Positions of each hypothesis that a step computes."""
        return 1.0 if self.system.cached else generated + 1

    def _matmul(self, flops: float, moved: float, share: float = 1.0) -> float:
        share *= self.rates.single if self.load.dtype == "float32" else self.rates.half
        return max(flops / (self.device.peak(self.load.dtype) * share), self._stream(moved))

    def _stream(self, moved: float) -> float:
        return moved / (self.device.bandwidth * self.rates.stream)

    def _linear(self, sentences: float, generated: float) -> float:
        arch, item = self.arch.decoder, self.load.item
        rows = sentences * self.load.beam * self._queries(generated)
        # Expanded queries apply the weights of keys and values themselves: `_expansion` counts it.
        queries, states = self.arch.cross_weights
        weights = arch.layer_weights + queries
        if self.system.self_expanded:
            weights -= 2 * arch.width**2
        time = self._matmul(2 * rows * weights, weights * item)
        if not self.system.cached:
            sources = sentences * self.load.beam * self.load.source
            time += self._matmul(2 * sources * states, states * item)
        stream = rows * (STREAM_WIDTHS * arch.width + STREAM_FFNS * arch.ffn) * item
        return arch.layers * (time + self._stream(stream))

    def _vocabulary(self, sentences: float, generated: float) -> float:
        arch, item = self.arch, self.load.item
        rows = sentences * self.load.beam
        projected = rows * self._queries(generated)
        weights = arch.vocabulary * arch.decoder.width
        time = self._matmul(2 * projected * weights, weights * item)
        passes = LOGIT_PASSES + (DIVERSITY_PASSES if self.load.groups > 1 else 0)
        logits = arch.vocabulary * (2 * item * projected + 4 * passes * rows)
        return time + self._stream(logits)

    def _attention(self, sentences: float, generated: float) -> float:
        arch, system = self.arch, self.system
        hypotheses = sentences * self.load.beam
        rows = hypotheses * self._queries(generated)
        sources = hypotheses if system.per_beam else sentences
        time = self._read(system.expanded, sources, rows, self.load.source, arch.source_width)
        width = arch.decoder.width
        time += self._read(system.self_expanded, hypotheses, rows, generated + 1, width)
        # A language model has one attention over prompt and generated tokens, and one query.
        if arch.encoder is not None and system.expanded:
            time += self._expansion(rows, arch.source_width)
        if system.self_expanded:
            time += self._expansion(rows, width)
        return arch.decoder.layers * time

    def _read(self, expanded: bool, groups: float, rows: float, keys: float, width: float) -> float:
        """A layer's scores and contexts: `rows` queries, in groups that read the same states."""
        stack, item = self.arch.decoder, self.load.item
        passes = 0 if self.system.fused else SCORE_PASSES
        scores = self._stream(passes * rows * stack.heads * keys * item)
        if not expanded:
            read = 2 * groups * keys * stack.width * item
            return scores + self._matmul(4 * rows * keys * stack.width, read)
        # The state is key and value: read once by one kernel, twice by two products.
        read = (1 if self.system.fused else 2) * groups * keys * width * item
        flops = 4 * rows * stack.heads * keys * width
        return scores + self._matmul(flops, read, self.rates.batched)

    def _expansion(self, rows: float, width: float) -> float:
        """A layer's expansion of queries to `width` and contraction of contexts."""
        stack = self.arch.decoder
        # Each is written and read once; and once more to be transposed between plain products.
        passes = 4 if self.system.fused else 8
        moved = (passes * rows * stack.heads + 2 * stack.width) * width * self.load.item
        return self._matmul(4 * rows * stack.width * width, moved, self.rates.batched)

    def _copying(self, sentences: float, generated: float) -> float:
        arch, system, load = self.arch, self.system, self.load
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
        """Encoder, keys and values of its output; or the prompt."""
        arch, system, load = self.arch, self.system, self.load
        copies = load.rows if system.per_beam else load.batch
        if arch.encoder is None:
            if not system.prompt_at_once:
                half = replace(self, load=replace(load, source=(load.source + 1) // 2))
                return load.source * half.step(load.batch, 0).total
            positions = load.source if system.all_logits else 1
            logits = copies * positions * arch.vocabulary
            return self._stack(copies) + self._matmul(
                2 * logits * arch.decoder.width, logits * load.item
            )
        time = self._stack(load.batch)
        if system.cached and not system.expanded:
            _, states = arch.cross_weights
            flops = 2 * copies * load.source * states * arch.decoder.layers
            time += self._matmul(flops, 2 * input_states(arch, system, load))
        return time

    def _stack(self, sentences: float) -> float:
        """A pass over whole sources or prompts."""
        stack, load = self.arch.encoder or self.arch.decoder, self.load
        tokens = sentences * load.source
        flops = 2 * tokens * stack.layer_weights + 4 * tokens * load.source * stack.width
        moved = tokens * (STREAM_WIDTHS * stack.width + STREAM_FFNS * stack.ffn) * load.item
        moved += SCORE_PASSES * tokens * stack.heads * load.source * load.item
        return stack.layers * (self._matmul(flops, 0) + self._stream(moved))
