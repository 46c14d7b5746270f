"""fairseq's Transformer encoder, whose output is kept once per sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from el_attention.plugin.specialize import Specialized

if TYPE_CHECKING:
    from fairseq.models.transformer import TransformerEncoderBase as _Base
else:
    _Base = object

COLUMNS = "el_attention.columns"  # int64 [beams]: the sentence of each beam


class ELEncoder(Specialized, _Base):
    """Follows the beams with an index instead of copies of the encoder output."""

    def reorder_encoder_out(
        self, encoder_out: dict[str, list[Tensor]], new_order: Tensor
    ) -> dict[str, list[Tensor]]:
        """Returns `encoder_out` with its index reordered and its states as they are.

        What decoding never reads (embeddings, inner states) is dropped.

        Args:
            encoder_out: the output of `forward`, or of this method.
            new_order: int64 [beams], the old beam (at first: sentence) of each new one.
        """
        columns = encoder_out.get(COLUMNS)
        return {
            "encoder_out": encoder_out["encoder_out"],
            "encoder_padding_mask": encoder_out["encoder_padding_mask"],
            "encoder_embedding": [],
            "encoder_states": [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [],
            COLUMNS: [columns[0][new_order] if columns else new_order],
        }

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
