"""Seconds that a generation takes: a roofline for each part of a step, and the host's overhead."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce

from el_attention.cost.architecture import Architecture
from el_attention.cost.device import Device
from el_attention.cost.plans import Plans
from el_attention.cost.workload import Workload

# Passes over float32 logits, after the model's own were written and read: log-softmax (write), sum
# with the scores of the hypotheses (read, write), top-k (read); diverse search's penalty (both).
LOGIT_PASSES, DIVERSITY_PASSES = 4, 2
# Passes over an attention score of the encoder: written, masked (read, write), softmax (read,
# write), read for the context.
SCORE_PASSES = 6
# Numbers moved per row and layer by biases, residuals, norms and activations, in units of the width
# and of the ffn's width.
STREAM_WIDTHS, STREAM_FFNS = 24, 8
# Operators called per decoder layer and step, per step for embedding, vocabulary and search, and
# per further group of diverse beam search. What the design aims at, not counts; the same for all
# plans, so that what is guessed of the host decides nothing.
LAYER_OPERATIONS, STEP_OPERATIONS, GROUP_OPERATIONS = 45, 60, 15


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
        overhead: the device waits for the host.
    """

    encoding: float = 0.0
    linear: float = 0.0
    vocabulary: float = 0.0
    attention: float = 0.0
    overhead: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self.table().values())

    def table(self) -> dict[str, float]:
        """Returns the parts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def plus(self, other: Seconds) -> Seconds:
        """Returns the sum with `other`, which is of the same class."""
        theirs = other.table()
        return replace(self, **{name: mine + theirs[name] for name, mine in self.table().items()})

    def times(self, number: float) -> Seconds:
        """Returns `number` times as much."""
        return replace(self, **{name: number * mine for name, mine in self.table().items()})


@dataclass(frozen=True)
class CostModel:
    """The cost model of a generation, on one device.

    Attributes:
        arch: the model.
        plans: the plans of its attentions.
        load: what is generated.
        device: what it runs on.
        rates: what software reaches of the device.
    """

    arch: Architecture
    plans: Plans
    load: Workload
    device: Device
    rates: Rates

    def sample_seconds(self) -> float:
        """Returns the seconds per sentence."""
        return self.batch().total / self.load.batch

    def batch(self) -> Seconds:
        """Returns the time of the whole batch."""
        steps = [
            self.step(sentences, generated).times(number)
            for number, sentences, generated in self.load.phases()
        ]
        return replace(reduce(Seconds.plus, steps), encoding=self._encoding())

    def step(self, sentences: float, generated: float) -> Seconds:
        """Returns the time of one step.

        Args:
            sentences: still active.
            generated: tokens generated before.
        """
        rows = sentences * self.load.beam
        device = Seconds(
            linear=self._linear(rows),
            vocabulary=self._vocabulary(rows, rows),
            attention=self._attention(sentences, rows, rows, generated),
        )
        search = STEP_OPERATIONS + GROUP_OPERATIONS * (self.load.groups - 1)
        return replace(device, overhead=self._overhead(device.total, LAYER_OPERATIONS, search))

    # The parts, in seconds of device time. `sentences` and what is counted by them may be
    # fractional: it is a mean.

    def _overhead(self, device: float, layer_operations: float, search_operations: float) -> float:
        """How long a device that works `device` seconds waits for the host."""
        # Search waits for the device once per step: its operators are called while that idles.
        # Those of the layers are called while it works.
        call = self.rates.operation_seconds
        layers = self.arch.decoder.layers * layer_operations
        return max(0.0, layers * call - device) + search_operations * call

    def _matmul(self, flops: float, moved: float, share: float = 1.0) -> float:
        share *= self.rates.single if self.load.dtype == "float32" else self.rates.half
        return max(flops / (self.device.peak(self.load.dtype) * share), self._stream(moved))

    def _stream(self, moved: float) -> float:
        return moved / (self.device.bandwidth * self.rates.stream)

    def _linear(self, rows: float) -> float:
        """The layers' products with weights, for `rows` tokens."""
        arch, item = self.arch.decoder, self.load.item
        # Expanded queries apply the weights of keys and values themselves: `_expansion` counts it.
        queries, _ = self.arch.cross_weights
        weights = arch.layer_weights + queries
        if self.plans.self_expanded:
            weights -= 2 * arch.width**2
        time = self._matmul(2 * rows * weights, weights * item)
        stream = rows * (STREAM_WIDTHS * arch.width + STREAM_FFNS * arch.ffn) * item
        return arch.layers * (time + self._stream(stream))

    def _vocabulary(self, rows: float, projected: float) -> float:
        """Logits at `projected` positions, and the search among those of `rows` hypotheses."""
        arch, item = self.arch, self.load.item
        weights = arch.vocabulary * arch.decoder.width
        time = self._matmul(2 * projected * weights, weights * item)
        passes = LOGIT_PASSES + (DIVERSITY_PASSES if self.load.groups > 1 else 0)
        logits = arch.vocabulary * (2 * item * projected + 4 * passes * rows)
        return time + self._stream(logits)

    def _attention(self, sources: float, hypotheses: float, rows: float, generated: float) -> float:
        """`rows` queries of `hypotheses` that read `sources` copies of sources or prompts."""
        arch, plans = self.arch, self.plans
        width = arch.decoder.width
        time = self._read(plans.expanded, sources, rows, self.load.source, arch.source_width)
        time += self._read(plans.self_expanded, hypotheses, rows, generated + 1, width)
        # A language model has one attention over prompt and generated tokens, and one query.
        if arch.encoder is not None and plans.expanded:
            time += self._expansion(rows, arch.source_width)
        if plans.self_expanded:
            time += self._expansion(rows, width)
        return arch.decoder.layers * time

    def _read(self, expanded: bool, groups: float, rows: float, keys: float, width: float) -> float:
        """A layer's scores and contexts: `rows` queries, in groups that read the same states."""
        stack, item = self.arch.decoder, self.load.item
        if not expanded:
            read = 2 * groups * keys * stack.width * item
            return self._matmul(4 * rows * keys * stack.width, read)
        # The state is key and value, and is read once.
        read = groups * keys * width * item
        return self._matmul(4 * rows * stack.heads * keys * width, read, self.rates.batched)

    def _expansion(self, rows: float, width: float, passes: int = 4) -> float:
        """A layer's expansion of queries to `width` and contraction of contexts.

        Each is written and read, in `passes` passes over both.
        """
        stack = self.arch.decoder
        moved = (passes * rows * stack.heads + 2 * stack.width) * width * self.load.item
        return self._matmul(4 * rows * stack.width * width, moved, self.rates.batched)

    def _encoding(self) -> float:
        """Encoder, keys and values of its output; or the prompt."""
        arch, load = self.arch, self.load
        time = self._stack(load.batch)
        if arch.encoder is None:
            logits = load.batch * arch.vocabulary
            return time + self._matmul(2 * logits * arch.decoder.width, logits * load.item)
        return time if self.plans.expanded else time + self._projection(load.batch)

    def _projection(self, copies: float) -> float:
        """Keys and values of `copies` encoder outputs, for all layers."""
        arch, load = self.arch, self.load
        _, states = arch.cross_weights
        flops = 2 * copies * load.source * states * arch.decoder.layers
        kept = 2 * arch.decoder.layers * copies * load.source * arch.decoder.width * load.item
        return self._matmul(flops, 2 * kept)

    def _stack(self, sentences: float) -> float:
        """A pass over whole sources or prompts."""
        stack, load = self.arch.encoder or self.arch.decoder, self.load
        tokens = sentences * load.source
        flops = 2 * tokens * stack.layer_weights + 4 * tokens * load.source * stack.width
        moved = tokens * (STREAM_WIDTHS * stack.width + STREAM_FFNS * stack.ffn) * load.item
        moved += SCORE_PASSES * tokens * stack.heads * load.source * load.item
        return stack.layers * (self._matmul(flops, 0) + self._stream(moved))
