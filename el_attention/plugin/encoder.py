"""fairseq's Transformer encoder: in parts of a batch, its output kept once per sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from fairseq.modules import FairseqDropout
from torch import Tensor

from el_attention.plugin.attention_step import acts
from el_attention.plugin.parts import rows_of, sentences_at_once
from el_attention.plugin.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.models.transformer import TransformerEncoderBase as _Base
else:
    _Base = object

COLUMNS = "el_attention.columns"  # int64 [beams]: the sentence of each beam


class ELEncoder(Specialized, _Base):
    """Follows the beams with an index instead of copies of the encoder output."""

    def forward_torchscript(self, net_input: dict[str, Any]) -> dict[str, list[Tensor]]:
        """Encodes the sources of a generation; on a CPU in parts, which need less memory.

        Args:
            net_input: of a batch.

        Returns:
            The output of `forward`; without what decoding never reads, if in parts.
        """
        tokens: Tensor = net_input["src_tokens"]
        size = sentences_at_once(tokens)
        if len(tokens) <= size or self._draws():
            whole: dict[str, list[Tensor]] = super().forward_torchscript(net_input)
            return whole
        states, masks = None, []
        for index in torch.arange(len(tokens)).split(size):
            part = super().forward_torchscript(rows_of(net_input, index, len(tokens)))
            (encoded,) = part["encoder_out"]
            if states is None:
                states = encoded.new_empty(len(encoded), len(tokens), encoded.size(2))
            states[:, index] = encoded
            masks.append(part["encoder_padding_mask"])
            del part, encoded  # before the next part
        assert states is not None
        return self._kept(states, [torch.cat(mask) for mask in zip(*masks, strict=True)])

    def _draws(self) -> bool:
        """Whether random numbers are drawn, which would be others in parts."""
        return self.training or any(
            isinstance(module, FairseqDropout) and acts(module) for module in self.modules()
        )

    @staticmethod
    def _kept(states: Tensor, padding: list[Tensor]) -> dict[str, list[Tensor]]:
        """An encoder output without what decoding never reads: embeddings, inner states."""
        return {
            "encoder_out": [states],
            "encoder_padding_mask": padding,
            "encoder_embedding": [],
            "encoder_states": [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [],
        }

    def reorder_encoder_out(
        self, encoder_out: dict[str, list[Tensor]], new_order: Tensor
    ) -> dict[str, list[Tensor]]:
        """Returns `encoder_out` with its index reordered and its states as they are.

        What decoding never reads is dropped.

        Args:
            encoder_out: the output of `forward`, or of this method.
            new_order: int64 [beams], the old beam (at first: sentence) of each new one.
        """
        columns = encoder_out.get(COLUMNS)
        (states,) = encoder_out["encoder_out"]
        kept = ELEncoder._kept(states, encoder_out["encoder_padding_mask"])
        return kept | {COLUMNS: [columns[0][new_order] if columns else new_order]}

    def _reorder_encoder_out(
        self, encoder_out: dict[str, list[Tensor]], new_order: Tensor
    ) -> dict[str, list[Tensor]]:
        # BART puts this in place of reorder_encoder_out when it is told the beam.
        return ELEncoder.reorder_encoder_out(self, encoder_out, new_order)


def replicated(encoder_out: dict[str, list[Tensor]] | None) -> dict[str, list[Tensor]] | None:
    """Returns an encoder output with one copy per beam, as fairseq's own decoders expect."""
    if encoder_out is None or COLUMNS not in encoder_out:
        return encoder_out
    columns = encoder_out[COLUMNS][0]
    plain = {name: tensors for name, tensors in encoder_out.items() if name != COLUMNS}
    plain["encoder_out"] = [x.index_select(1, columns) for x in encoder_out["encoder_out"]]
    plain["encoder_padding_mask"] = [
        mask.index_select(0, columns) for mask in encoder_out["encoder_padding_mask"]
    ]
    return plain
