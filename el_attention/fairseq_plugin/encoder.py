"""fairseq's Transformer encoder: in parts of a batch, its output kept once per sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from fairseq.modules import FairseqDropout
from torch import Tensor

from el_attention.fairseq_plugin.attention_step import acts
from el_attention.fairseq_plugin.encoder_out import SENTENCE_AXIS, EncoderOut, SharedEncoderOut
from el_attention.fairseq_plugin.parts import (
    rows_of,
    say_once,
    sentences_at_once,
    unsupported_parts,
)
from el_attention.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.models.transformer import TransformerEncoderBase as _Base
else:
    _Base = object


class ELEncoder(Specialized, _Base):
    """Follows the beams with an index instead of copies of the encoder output."""

    def forward_torchscript(self, net_input: dict[str, Any]) -> dict[str, Any]:
        """Encodes the sources of a generation; on a CPU in parts, which need less memory.

        Args:
            net_input: the input of a batch.

        Returns:
            The output of `forward`.  Embeddings, which only decoders of other kinds read, are
            computed again when they are read.
        """
        tokens: Tensor = net_input["src_tokens"]
        if self._draws() or not self._is_plain():
            whole: dict[str, Any] = super().forward_torchscript(net_input)
            return whole
        size = max(1, min(len(tokens), sentences_at_once(tokens)))
        reason = unsupported_parts(net_input, len(tokens))
        if reason is not None and size < len(tokens):
            say_once(f"sources are encoded as a whole, not in parts: {reason}")
        if reason is not None:
            size = max(1, len(tokens))
        output: dict[str, Any] = {}
        for number, index in enumerate(torch.arange(len(tokens)).split(size)):
            every = len(index) == len(tokens)
            own = net_input if every else rows_of(net_input, index)
            # LayerDrop draws numbers also where it drops nothing: once, as for a whole batch.
            with torch.random.fork_rng(devices=[], enabled=number > 0):
                part = super().forward_torchscript(own)
            part["encoder_embedding"] = []
            for name, tensors in part.items():
                _put(output, name, tensors, index, len(tokens))
            del part, tensors  # before the next part
        output["encoder_embedding"] = _Embeddings(self, tokens)
        return output

    def restore(self) -> None:
        """Makes this an encoder of its class before again, which copies its output per beam."""
        self.__dict__.pop("reorder_encoder_out", None)  # BART puts a method of this class there
        super().restore()

    def _draws(self) -> bool:
        """Whether random numbers are drawn, which would be others in parts."""
        return any(
            module.training or (isinstance(module, FairseqDropout) and acts(module))
            for module in self.modules()
        )

    def _is_plain(self) -> bool:
        """Whether the meaning of everything that the encoder returns is known."""
        from fairseq.models.transformer import TransformerEncoder, TransformerEncoderBase

        methods = ("forward", "forward_scriptable", "forward_embedding", "forward_torchscript")
        return all(
            name not in vars(self)
            and getattr(self._base, name)
            in (getattr(TransformerEncoderBase, name), getattr(TransformerEncoder, name))
            for name in methods
        )

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> SharedEncoderOut:
        """Returns `encoder_out` with its index reordered and its states as they are.

        Args:
            encoder_out: the output of `forward`, or of this method.
            new_order: int64 [beams], the old beam (at first: sentence) of each new one.
        """
        if isinstance(encoder_out, SharedEncoderOut):
            return encoder_out.reordered(new_order)
        return SharedEncoderOut(encoder_out, new_order)

    def _reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> SharedEncoderOut:
        # BART puts this in place of reorder_encoder_out when it is told the beam.
        return ELEncoder.reorder_encoder_out(self, encoder_out, new_order)


class _Embeddings(Sequence[Tensor]):
    """The embeddings of the sources, [sentences, S, C], computed when they are read."""

    def __init__(self, encoder: ELEncoder, tokens: Tensor) -> None:
        self._encoder = encoder
        self._tokens = tokens

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        return [self._encoder.forward_embedding(self._tokens)[1]][index]

    def __len__(self) -> int:
        return 1


def _put(
    output: dict[str, Any], name: str, tensors: Sequence[Tensor], index: Tensor, sentences: int
) -> None:
    """Writes the sentences `index` of one part of an encoder output into the whole of it."""
    if len(index) == sentences or not tensors:
        output[name] = list(tensors)
        return
    axis = SENTENCE_AXIS[name]
    if name not in output:
        shapes = [[sentences if i == axis else n for i, n in enumerate(x.shape)] for x in tensors]
        output[name] = [x.new_empty(s) for x, s in zip(tensors, shapes, strict=True)]
    for whole, part in zip(output[name], tensors, strict=True):
        whole.index_copy_(axis, index.to(part.device), part)
