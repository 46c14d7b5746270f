"""The cache of one run of `generate`: states that the beams of a sentence share."""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from el_attention.attention import Lengths, Planner
from el_attention.decoder import DecoderSpec, Decoding
from el_attention.state import Source
from el_attention.transfer import to_device


class DecodingCache(Cache):
    """Holds all that a run of `generate` changes; stands where a `DynamicCache` would.

    Attributes:
        spec: the spec of the decoder.
        beam: sequences of each sentence.
        decoding: the states, once the first tokens have been processed.
        next_positions: int64 [N], of the next tokens; None where `advance` counts.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        planner: Planner,
        beam: int,
        source: Source | None,
        is_returned: bool,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> None:
        """Begins a run.

        Args:
            spec: the spec of the decoder.
            planner: chooses the plans.
            beam: sequences of each sentence.
            source: the encoder output, one column per sentence, or None.
            is_returned: whether it is part of the result.
            min_length: fewest tokens of a sequence, the prompt included.
            max_length: most tokens of a sequence; None without a limit.
        """
        super().__init__(layers=[])
        self.spec = spec
        self.beam = beam
        self.decoding: Decoding | None = None
        self.next_positions: Tensor | None = None
        assert spec.output is not None
        self._output = spec.output
        self._planner = planner
        self._source = source
        self._is_returned = is_returned
        self._min_length = min_length
        self._max_length = max_length
        self._length = 0

    def advance(
        self, tokens: Tensor, positions: Tensor | None = None, is_padding: Tensor | None = None
    ) -> Tensor:
        """Processes the newest tokens of every sequence.

        Args:
            tokens: int64 [N, n].
            positions: int64 [N, n], or None to count.
            is_padding: bool [N, n], at the first call; or None.

        Returns:
            [N, V], the logits after the last tokens.
        """
        self.next_positions = None if positions is None else positions[:, -1] + 1
        first, hidden = 0, None
        if self.decoding is None:
            self.decoding = Decoding(
                self.spec,
                self._planner,
                len(tokens) // self.beam,
                self.beam,
                self._source,
                keeps_positions=self._is_returned,
                lengths=self._lengths(tokens.size(1)),
            )
            if _equal_beams(self.beam, tokens, positions, is_padding):
                first = _taken_at_once(tokens, is_padding)
            if first:
                self._length = first
                hidden = self.decoding.prefill(
                    tokens[:: self.beam, :first],
                    None if is_padding is None else is_padding[:: self.beam, :first],
                    None if positions is None else positions[:: self.beam, :first],
                )[:, -1].repeat_interleave(self.beam, 0)
        for index in range(first, tokens.size(1)):
            hidden = self.decoding.step(
                tokens[:, index],
                self._length if positions is None else positions[:, index],
                None if is_padding is None else is_padding[:, index],
            ).hidden
            self._length += 1
        assert hidden is not None
        return self._output(hidden)

    def _lengths(self, prompt: int) -> Lengths:
        least, most = self._min_length - prompt, self._max_length
        return Lengths(prompt, max(0, least), None if most is None else most - prompt)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, V."""
        return self._output.projection.outputs

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the number of tokens of every sequence so far, padding included."""
        return self._length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follows the beams; copies no state.

        Args:
            beam_idx: integers [N'], the old sequence of each new one; sentences may be left out.
                Best on the host, which else waits for it.
        """
        assert self.decoding is not None
        self.decoding.reorder(beam_idx.to(torch.int64))
        if self.next_positions is not None:
            (there,) = to_device(self.next_positions.device, beam_idx)
            self.next_positions = self.next_positions[there]

    @property
    def self_attention_cache(self) -> DynamicCache:
        """Keys and values of every sequence, copied, for what reads them after the run."""
        return self._stock[0]

    @property
    def cross_attention_cache(self) -> DynamicCache:
        """The same of encoder-decoder attention."""
        return self._stock[1]

    @functools.cached_property
    @torch.no_grad()
    def _stock(self) -> tuple[DynamicCache, DynamicCache]:
        assert self.decoding is not None
        own, cross = DynamicCache(), DynamicCache()
        for index, (states, source) in enumerate(self.decoding.keys_and_values()):
            own.update(*states, index)
            if source is not None:
                cross.update(*source, index)
        return own, cross

    @property
    def is_compileable(self) -> bool:
        """Whether a compiled forward can use it: no."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back: no."""
        return False

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses keys and values: it keeps other states.

        Raises:
            TypeError: always.
        """
        raise _refusal("takes no keys and values")

    def crop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses to forget tokens.

        Raises:
            TypeError: always.
        """
        raise _refusal("cannot be cropped")

    def batch_select_indices(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses to select sequences.

        Raises:
            TypeError: always.
        """
        raise _refusal("cannot be divided")

    def batch_repeat_interleave(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses to repeat sequences.

        Raises:
            TypeError: always.
        """
        raise _refusal("cannot be repeated")

    def reset(self) -> NoReturn:
        """Refuses to begin again.

        Raises:
            TypeError: always.
        """
        raise _refusal("cannot be reset")


def _refusal(what: str) -> TypeError:
    return TypeError(
        f"cache: expected one of Transformers, got that of a run of generate with EL-attention, "
        f"which {what}; give generate a DynamicCache to use it afterwards"
    )


def _equal_beams(beam: int, *tensors: Tensor | None) -> bool:
    """Whether all sequences of a sentence begin equally; tensors are [G * beam, ...] or None."""
    for tensor in tensors:
        if tensor is not None and beam > 1:
            grouped = tensor.view(-1, beam, *tensor.shape[1:])
            if not bool((grouped == grouped[:, :1]).all()):
                return False
    return True


def _taken_at_once(tokens: Tensor, is_padding: Tensor | None) -> int:
    """How many tokens, int64 [N, n], to process in one pass: not the last where one is padding.

    The logits after that are asked for.  It sees the tokens before it but not itself, which is so
    in a step, and there have to be some.
    """
    length = tokens.size(1)
    if is_padding is None or not bool(is_padding[:, -1].any()):
        return length
    return 0 if bool(is_padding[:, :-1].all(1).any()) else length - 1
