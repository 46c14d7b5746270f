"""The state of one generation of one model: the tree, the pools, the source and the prompt."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from el_attention.attention import Choice, Planner
from el_attention.cost import Workload
from el_attention.ops import Rows
from el_attention.state import BeamTree, Payload, Placement, StatePool, View

if TYPE_CHECKING:
    from el_attention.plugin.attention_step import AttentionStep
    from el_attention.plugin.encoder_out import SharedEncoderOut
    from el_attention.plugin.layer import LayerStep

logger = logging.getLogger(__name__)

KEY = "el_attention.decoding_state"
# Tokens that plans are made for: how many it will be is known only at the end.
EXPECTED_TOKENS = 64


@dataclass(frozen=True)
class Source:
    """The encoder output as decoding sees it: one column per sentence, never copied.

    Attributes:
        states: [S, sentences, width], the encoder output.
        padding: bool [sentences, S], true at padding, or None.
        columns: int64 [G * B], the column of each beam.
        per_beam: gives copies of the encoder output to decoders that read them.
    """

    states: Tensor
    padding: Tensor | None
    columns: Tensor
    per_beam: SharedEncoderOut | None = None


@dataclass
class Prompt:
    """A prompt that was processed in one pass.

    Attributes:
        features: [sentences, P, C], the decoder's features at every position.
        lengths: int64 [G], the number of positions of each living sentence.
        columns: int64 [G], the row of `features` of each living sentence.
    """

    features: Tensor
    lengths: Tensor
    columns: Tensor

    def at(self, position: int) -> Tensor:
        """Features of every living sentence at `position`: [G, 1, C]."""
        return self.features[self.columns, position : position + 1]


class DecodingState:
    """What decoding keeps between steps.

    It lives in fairseq's `incremental_state` dictionary, under a key of its own.

    Attributes:
        tree: rows and beams.
        pools: the payload of each call of an attention in a step: the module, and how often it was
            called before, because layers may share modules.
        attentions: what each attention module has looked up; None where it is fairseq's.
        layers: the same of each decoder layer.
        reordering: the modules that follow the beams.
        source: the encoder output, for models with an encoder.
        prompt: a prompt that was processed in one pass, while it is being consumed.
        age: position of the newest token; -1 before the first.
        records_weights: whether anybody reads attention weights; fairseq's layers always ask for
            them.
    """

    def __init__(
        self, sentences: int, beam: int, device: torch.device, announced: set[str]
    ) -> None:
        """Starts a generation.

        Args:
            sentences: number of sentences, G.
            beam: beams of each sentence, B.
            device: where the states live.
            announced: what has been logged about this model, so that it is said once.
        """
        self.tree = BeamTree(sentences, beam, device)
        self._announced = announced
        self._choices: dict[str, Choice] | None = None
        self.pools: dict[tuple[nn.Module, int], StatePool] = {}
        self._calls: Counter[nn.Module] = Counter()
        self.attentions: dict[nn.Module, AttentionStep | None] = {}
        self.layers: dict[nn.Module, LayerStep | None] = {}
        self.reordering: list[Any] = []
        self.source: Source | None = None
        self.prompt: Prompt | None = None
        self.age = -1
        self.records_weights = True
        self._view = View(None, ())
        self._placements: list[Placement] = []
        self._source_view = View(None, ())
        self._source_columns: Tensor | None = None

    @staticmethod
    def decline(incremental_state: dict[str, Any]) -> None:
        """Notes that this generation shares no states, so that no later step begins to."""
        incremental_state[KEY] = None

    @staticmethod
    def is_decided(incremental_state: dict[str, Any]) -> bool:
        """Whether a generation has a state, or has been noted to share none."""
        return KEY in incremental_state

    @staticmethod
    def is_declined(incremental_state: dict[str, Any]) -> bool:
        """Whether a generation has been noted to share no states."""
        return KEY in incremental_state and incremental_state[KEY] is None

    @staticmethod
    def find(incremental_state: dict[str, Any] | None) -> DecodingState | None:
        """Returns the state that an `incremental_state` holds, if any."""
        return None if incremental_state is None else incremental_state.get(KEY)

    def announce(self, level: int, line: str, detail: str = "") -> None:
        """Logs `line`, once for each model, with the detail of the first time."""
        if line not in self._announced:
            self._announced.add(line)
            logger.log(level, line + detail)

    def choose(self, planner: Planner, kind: str, states: Tensor) -> Choice:
        """Returns the plan of a kind of attention, chosen once for all attentions of the model.

        Args:
            planner: of the model.
            kind: as in `Planner.choose`.
            states: the states that are attended to, [rows, columns, width].
        """
        if self._choices is None:
            load = Workload(
                dtype=str(states.dtype).removeprefix("torch."),
                batch=max(1, self.tree.sentences),
                beam=self.tree.beam,
                source=max(1, len(states if self.source is None else self.source.states)),
                first_end=EXPECTED_TOKENS,
                last_end=EXPECTED_TOKENS,
            )
            self._choices = planner.choose(load, states.device)
        return self._choices[kind]

    def attach(self, incremental_state: dict[str, Any]) -> None:
        """Stores this state in `incremental_state`."""
        incremental_state[KEY] = self

    @property
    def view(self) -> View:
        """The rows of self-attention that this step's queries see."""
        return self._view

    @property
    def source_view(self) -> View:
        """The rows of the source that this step's queries see."""
        return self._source_view

    def advance(
        self, age: int, hidden: Tensor | None, source: Source | None, active: Tensor | None = None
    ) -> None:
        """Makes room for the next token of every beam; once per step for all layers.

        Args:
            age: position of the token.
            hidden: bool [G' * B], beams whose token is padding, or None.
            source: the encoder output, or None.
            active: int64 [G'], the sentences that take the step, or None for all.
        """
        self.age = age
        self._calls.clear()
        self._view, self._placements = self.tree.append(age, hidden, active)
        self.source = source
        if source is not None:
            self._look_at(source)

    def source_of(self, states: Tensor) -> Tensor:
        """Returns the source with one column per sentence that `states` stands for.

        Args:
            states: [S, sentences, width], or a copy per beam of the encoder output.

        Raises:
            ValueError: if it is neither.
        """
        assert self.source is not None
        per_beam, shared = self.source.per_beam, self.source.states
        if per_beam is not None and per_beam.is_copy("encoder_out", states):
            return shared
        if states.size(1) != shared.size(1):
            raise ValueError(
                f"encoder output: expected {shared.size(1)} columns, one for each sentence, "
                f"got {states.size(1)}"
            )
        return states

    def append(self, module: nn.Module, payload: Payload) -> list[Rows]:
        """Writes this step's rows of `module` ([G * B, ...]) and returns all that are read."""
        call = module, self._calls[module]
        self._calls[module] += 1
        pool = self.pools.setdefault(call, StatePool())
        pool.write(payload, self._placements, self.tree.segments)
        return pool.read(self._view)

    def reorder(self, order: Tensor) -> None:
        """Follows the beams; copies states only where beams of different sentences mix.

        Args:
            order: int64 [G' * B], the old beam of each new one.
        """
        if self.tree.accepts(order):
            if self.prompt is not None:
                sentences = order.view(-1, self.tree.beam)[:, 0] // self.tree.beam
                self.prompt.lengths = self.prompt.lengths[sentences]
                self.prompt.columns = self.prompt.columns[sentences]
            self.tree.reorder(order)
            return
        segments = self.tree.segments
        self.tree, sentences, kept = self.tree.separate(order)
        for call, pool in self.pools.items():
            # The pools of a source hold no beams: only its columns, kept elsewhere, change.
            if pool.blocks and getattr(call[0], "self_attention", False):
                self.pools[call] = pool.gather(segments, sentences, kept)
        if self.prompt is not None:
            self.prompt.lengths = self.prompt.lengths[sentences]
            self.prompt.columns = self.prompt.columns[sentences]

    def tensors(self) -> Iterator[Tensor]:
        """Yields every tensor of states that is kept, the source included."""
        if self.source is not None:
            yield self.source.states
        for pool in self.pools.values():
            for keys, values in pool.blocks:
                yield keys
                if values is not keys:
                    yield values

    def _look_at(self, source: Source) -> None:
        columns = source.columns.view(-1, self.tree.beam)[:, 0]
        if self._source_columns is not None and torch.equal(columns, self._source_columns):
            return
        self._source_columns = columns
        visible = None
        if source.padding is not None and bool(source.padding.any()):
            visible = ~source.padding[columns].unsqueeze(1)
        self._source_view = View(visible, [(source.states.size(0), columns)])
