"""What a converted decoder keeps between the steps of one generation."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from el_attention.attention import UNKNOWN_LENGTHS, Choice, Lengths, Planner
from el_attention.decoder import Decoding
from el_attention.ops import Rows
from el_attention.state import Payload, RowCache, States
from el_attention.transfer import to_device

if TYPE_CHECKING:
    from el_attention.fairseq_plugin.attention_step import AttentionStep
    from el_attention.fairseq_plugin.encoder_out import SharedEncoderOut

logger = logging.getLogger(__name__)

KEY = "el_attention.decoding_state"


@dataclass
class Prompt:
    """A prompt that was processed in one pass.

    Attributes:
        features: [sentences, P, C], the decoder's features at every position.
        lengths: int64 [G], on the host, the number of positions of each living sentence.
        columns: int64 [G], the row of `features` of each living sentence.
    """

    features: Tensor
    lengths: Tensor
    columns: Tensor

    def at(self, position: int) -> Tensor:
        """Features of every living sentence at `position`: [G, 1, C]."""
        return self.features[self.columns, position : position + 1]


class DecodingState:
    """The state of one generation, under a key of its own in fairseq's `incremental_state`.

    Attributes:
        states: the tree, the rows of all attentions and the source.
        decoding: the runtime; None where steps go through fairseq's modules.
        modules: what only such steps need.
        prompt: a prompt that was processed in one pass, while it is being consumed.
        records_weights: whether anybody reads attention weights; fairseq's layers always ask for
            them.
        may_pad: whether tokens behind the first may be padding, which no later one sees.
    """

    def __init__(
        self,
        states: States,
        announced: set[str],
        decoding: Decoding | None = None,
        lengths: Lengths = UNKNOWN_LENGTHS,
    ) -> None:
        """Starts a generation.

        Args:
            states: without rows.
            announced: what has been logged about this model, so that it is said once.
            decoding: the runtime over `states`, or None for fairseq's modules.
            lengths: what is known of the lengths, for the plans of fairseq's modules.
        """
        self.states = states
        self.decoding = decoding
        self.modules = ModuleSteps(lengths)
        self.prompt: Prompt | None = None
        self.records_weights = True
        self.may_pad = True
        self._announced = announced

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

    def attach(self, incremental_state: dict[str, Any]) -> None:
        """Stores this state in `incremental_state`."""
        incremental_state[KEY] = self

    def announce(self, level: int, line: str, detail: str = "") -> None:
        """Logs `line`, once for each model, with the detail of the first time."""
        if line not in self._announced:
            self._announced.add(line)
            logger.log(level, line + detail)

    def announce_plan(self, kind: str, choice: Choice, reason: str | None) -> None:
        """Logs the plan of a kind of attention, and which operators compute it.

        Args:
            kind: the kind of attention.
            choice: its plan, and why.
            reason: why the compiled operators cannot run, or None.
        """
        self.announce(logging.INFO, f"{kind}: {choice.plan.name}", f" ({choice.reason})")
        operators = f"pure PyTorch, because {reason}" if reason else "compiled"
        device = self.states.tree.device.type
        self.announce(logging.INFO, f"operators on {device}: {operators}")

    def reorder(self, order: Tensor) -> None:
        """Follows the beams.

        Args:
            order: int64 [G' * B], the old beam of each new one.
        """
        sentences = self.states.reorder(order)
        if self.prompt is not None:
            self.prompt.lengths = self.prompt.lengths[sentences]
            columns = self.prompt.columns
            (there,) = to_device(columns.device, sentences)
            self.prompt.columns = columns[there]


class ModuleSteps:
    """What steps through fairseq's modules keep beside the states.

    Attributes:
        attentions: what each attention module has looked up; None where it is fairseq's.
        reordering: the modules that follow the beams.
        elsewhere: incremental states of fairseq's own attention at its second place in a decoder
            and those after it, by module and number of the place.
        per_beam: gives copies of the encoder output to modules that read them, or None.
        columns: int64 [G * B], the column of the encoder output of each beam, or None.
        position: the position of the newest token; -1 before the first.
    """

    def __init__(self, lengths: Lengths) -> None:
        """Starts a generation.

        Args:
            lengths: what is known of the lengths, for the choice of the plans.
        """
        self.attentions: dict[nn.Module, AttentionStep | None] = {}
        self.reordering: list[Any] = []
        self.elsewhere: dict[tuple[Any, int], dict[str, Any]] = {}
        self.per_beam: SharedEncoderOut | None = None
        self.columns: Tensor | None = None
        self.position = -1
        self._lengths = lengths
        self._calls: Counter[nn.Module] = Counter()
        self._choices: dict[str, Choice] | None = None

    def advance(self, position: int) -> None:
        """Begins a step at `position`."""
        self.position = position
        self._calls.clear()

    def choose(self, planner: Planner, kind: str, states: States, like: Tensor) -> Choice:
        """Returns the plan of a kind of attention, chosen once for all attentions of the model.

        Args:
            planner: the planner of the model.
            kind: as in `Planner.choose`.
            states: the states of the generation.
            like: a tensor of the states' dtype and device.
        """
        if self._choices is None:
            source = None if states.source is None else len(states.source.states)
            tree = states.tree
            self._choices = planner.choose_for(
                like.dtype, like.device, tree.sentences, tree.beam, source, self._lengths
            )
        return self._choices[kind]

    def append(self, module: nn.Module, payload: Payload, states: States) -> list[Rows]:
        """Writes this step's rows of `module` ([G * B, ...]) and returns all that are read."""
        call = module, self._calls[module]  # layers may share modules
        self._calls[module] += 1
        return states.append(call, payload)

    def incremental_state_of(self, module: nn.Module, first: dict[str, Any]) -> dict[str, Any]:
        """Returns what fairseq's own attention keeps its state in, another for each of its places.

        Args:
            module: that is about to be called; fairseq's attention would keep one state.
            first: for its first place.
        """
        call = self._calls[module]
        self._calls[module] += 1
        return first if call == 0 else self.elsewhere.setdefault((module, call), {})

    def is_source(self, states: States, key: Tensor | None, is_padding: Tensor | None) -> bool:
        """Whether a key is the encoder output, or a copy of it per beam, and so is its padding."""
        source, per_beam = states.source, self.per_beam
        if source is None:
            return False
        own = {"encoder_out": source.states, "encoder_padding_mask": source.is_padding}
        given = {"encoder_out": key, "encoder_padding_mask": is_padding}
        return all(
            given[name] is own[name]
            or (per_beam is not None and per_beam.is_copy(name, given[name]))
            for name in own
        )

    def source_rows(self, module: nn.Module, step: AttentionStep, states: States) -> list[Rows]:
        """Returns the rows of the source, projected once for all layers that share `module`."""
        cache = states.cross_caches.get(module)
        if cache is None:
            assert states.source is not None  # `is_source` has said so
            cache = states.cross_caches[module] = RowCache([step.payload(states.source.states)])
        return cache.read(states.source_view)
