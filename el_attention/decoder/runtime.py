"""The runtime of a decoder: from tokens to logits, over shared states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from el_attention.attention import UNKNOWN_LENGTHS, Choice, Lengths, Planner
from el_attention.cost import PART_TOKENS
from el_attention.decoder.company import Company
from el_attention.decoder.compiled_layer import step_rows
from el_attention.decoder.layer import Biases, Layer
from el_attention.decoder.specs import DecoderSpec
from el_attention.robust.memory import trim_heap
from el_attention.state import Payload, Source, States
from el_attention.transfer import to_device


class Step(NamedTuple):
    """What a step gives.

    Attributes:
        hidden: [G' * B, C'], the hidden states that make logits.
        weights: [G', B, H, S + sinks], of the encoder-decoder attention that was asked for; or
            None.
        inner: [G' * B, C] each, the embeddings and the output of every layer.
    """

    hidden: Tensor
    weights: Tensor | None
    inner: list[Tensor]


class Decoding:
    """One generation of one decoder.

    G sentences of B beams each; the beams of a sentence are neighbours.

    Attributes:
        spec: the spec of the decoder.
        states: the tree, the rows of all attentions, and the source.
        choices: the plans, and why they were chosen: by kind, `SELF` and `SOURCE`.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        planner: Planner,
        sentences: int,
        beam: int,
        source: Source | None = None,
        columns: Tensor | None = None,
        keeps_positions: bool = False,
        lengths: Lengths = UNKNOWN_LENGTHS,
    ) -> None:
        """Begins a generation.

        Args:
            spec: the spec of the decoder.
            planner: chooses the plans.
            sentences: number of sentences, G.
            beam: beams of each sentence, B.
            source: the encoder output, for a decoder that attends to one.
            columns: int64 [G], the column of the source of each sentence; None for all in order.
            keeps_positions: whether `keys_and_values` may be called.
            lengths: what is known of the lengths, for the choice of the plans.

        Raises:
            ValueError: if the sizes do not fit together.
        """
        if source is None and any(layer.cross_attn is not None for layer in spec.layers):
            raise ValueError("source: expected an encoder output, got None")
        self.spec = spec
        self._position_biases = spec.position_biases
        keeps_positions = keeps_positions or bool(self._position_biases)
        self.states = States(sentences, beam, spec.device, source, columns, keeps_positions)
        length = None if source is None else len(source.states)
        self.choices: dict[str, Choice] = planner.choose_for(
            spec.dtype, spec.device, sentences, beam, length, lengths
        )
        plans = {kind: choice.plan for kind, choice in self.choices.items()}
        self._layers = [
            Layer(layer, index, self.states, plans) for index, layer in enumerate(spec.layers)
        ]
        self._is_compiled = any(layer.is_compiled for layer in self._layers)
        self._company = Company() if spec.device.type == "cpu" else None

    def prefill(
        self, tokens: Tensor, is_padding: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Processes prompts before the first step, each sentence once.

        Args:
            tokens: int64 [G, P].
            is_padding: bool [G, P], true at padding, on either side of a prompt; or None.
            positions: int64 [G, P]; None to count the tokens that are not padding.

        Returns:
            [G, P, C'], the hidden states; of no meaning at padding.

        Raises:
            ValueError: if there were steps before, or a sentence is all padding.
        """
        total, length = tokens.shape
        if is_padding is None:
            is_padding = torch.zeros_like(tokens, dtype=torch.bool)
        is_token = ~is_padding
        if not bool(is_token.any(1).all()):
            raise ValueError("tokens: expected a token in every prompt, got only padding in one")
        if positions is None:
            positions = (is_token.cumsum(1) - 1).clamp(min=0)
        self._check_positions(positions)
        self.states.tree.add_prompt(is_padding, positions)
        # What lies after the last token of a sentence is seen by none of its tokens.
        after = is_token.flip(1).cumsum(1).flip(1).eq(0)
        hides = None if bool((is_token | after).all()) else is_padding
        hidden = None
        for part in torch.arange(total, device=tokens.device).split(_at_once(tokens)):
            found = self._prefill(
                tokens[part], positions[part], None if hides is None else hides[part], part, total
            )
            if len(part) == total:
                return found
            if hidden is None:
                hidden = found.new_empty(total, length, found.size(-1))
            hidden[part] = found
            del found
            # Small states lie between what the pass has freed: the heap would grow further.
            trim_heap()
        assert hidden is not None
        return hidden

    def step(
        self,
        tokens: Tensor,
        position: int | Tensor,
        is_padding: Tensor | None = None,
        active: Tensor | None = None,
        weights_of: int | None = None,
    ) -> Step:
        """Processes the newest token of every beam.

        Args:
            tokens: int64 [G' * B].
            position: the position of all tokens in their sequences, or int64 [G' * B], of each.
            is_padding: bool [G' * B], beams whose token is padding, which no later one sees; or
                None.
            active: int64 [G'], on the host, the sentences that take this step, or None for all.
            weights_of: the layer whose weights over the source are of use, or None.

        Raises:
            ValueError: if an int position is beyond the positions of the decoder, or the beams of
                a sentence have different ones and there is a bias by position.
        """
        if self._company is not None:
            self._company.look()
        x = self.spec.embedding(tokens, position)
        if self._position_biases:
            self._check_beams(position)
        self.states.advance(position, is_padding, active)
        biases = self._biases_of_rows(position)
        weights, inner = None, [x]
        step = step_rows(self.states) if self._is_compiled else None
        for index, layer in enumerate(self._layers):
            x, found = layer.step(x, index == weights_of, biases, step)
            weights = weights if found is None else found
            inner.append(x)
        return Step(self._last(x), weights, inner)

    def reorder(self, order: Tensor) -> None:
        """Follows the beams, and drops sentences that are not named.

        Args:
            order: int64 [G' * B], the old beam, counted over all sentences, of each new one; best
                on the host, which else waits for it.
        """
        self.states.reorder(order)

    def keys_and_values(self) -> list[tuple[Payload, Payload | None]]:
        """Copies keys and values of every beam, as decoders keep them that share no states.

        Returns:
            For every layer the keys and values of self-attention, [G' * B, H, T, D] each, and of
            encoder-decoder attention, [G' * B, H, S, D] each, or None without one.  Tokens are in
            order; beams with fewer than others have zeros before them.

        Raises:
            ValueError: if the positions of rows were not kept.
        """
        tree = self.states.tree
        if tree.positions is None:
            raise ValueError("keys_and_values: expected kept positions, got rows without an order")
        length = int(tree.visible.sum(2).max())
        (visible,) = to_device(tree.device, tree.visible.flatten(0, 1))
        sentences = torch.arange(len(visible), device=visible.device) // tree.beam
        positions = tree.positions[sentences].masked_fill(~visible, -1)
        rows = positions.argsort(dim=1, stable=True)[:, -length:]
        is_missing = ~visible.gather(1, rows)[:, None, :, None]
        found = []
        for layer in self._layers:
            (keys, values), source = layer.keys_and_values(sentences, rows)
            own = keys.masked_fill(is_missing, 0.0), values.masked_fill(is_missing, 0.0)
            found.append((own, source))
        return found

    def _prefill(
        self,
        tokens: Tensor,
        positions: Tensor,
        is_padding: Tensor | None,
        sentences: Tensor,
        total: int,
    ) -> Tensor:
        x = self.spec.embedding(tokens, positions).transpose(0, 1).contiguous()
        biases = self._biases_of_prompts(positions)
        for layer in self._layers:
            x = layer.prefill(x, is_padding, sentences, total, biases)
        return self._last(x).transpose(0, 1)

    def _biases_of_rows(self, position: int | Tensor) -> Biases:
        """Returns the biases [G', H, U] of what the queries of a step read."""
        if not self._position_biases:
            return {}
        positions = self.states.view.positions
        assert positions is not None
        if isinstance(position, Tensor):
            position = position.view(len(positions), -1)[:, :1]
        distance = position - positions
        return {bias: bias(distance) for bias in self._position_biases}

    def _biases_of_prompts(self, positions: Tensor) -> Biases:
        """Returns the biases [n or 1, H, P, P] of prompts at positions [n, P]."""
        if not self._position_biases:
            return {}
        if bool((positions == positions[:1]).all()):
            positions = positions[:1]
        distance = positions.unsqueeze(2) - positions.unsqueeze(1)
        return {bias: bias(distance) for bias in self._position_biases}

    def _check_beams(self, position: int | Tensor) -> None:
        if isinstance(position, Tensor) and self.states.tree.beam > 1:
            of_beams = position.view(-1, self.states.tree.beam)
            if not bool((of_beams == of_beams[:, :1]).all()):
                raise ValueError(
                    "position: expected one for all beams of a sentence, because there is a bias "
                    f"by position, got {of_beams.tolist()}"
                )

    def _last(self, x: Tensor) -> Tensor:
        if self.spec.norm is not None:
            x = self.spec.norm(x)
        return x if self.spec.project_out is None else self.spec.project_out(x)

    def _check_positions(self, positions: Tensor) -> None:
        limit = self.spec.embedding.limit
        if limit is not None and int(positions.max()) >= limit:
            raise ValueError(
                f"position: expected less than {limit}, the positions of the model, "
                f"got {int(positions.max())}"
            )


def _at_once(tokens: Tensor) -> int:
    """How many prompts to process at a time: on a CPU few, which need less memory; else all."""
    if tokens.device.type != "cpu":
        return max(1, len(tokens))
    return max(1, PART_TOKENS // max(1, tokens.size(1)))
