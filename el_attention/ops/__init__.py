"""The three operators of EL-attention, independent of fairseq and of where states live."""

from el_attention.ops.reference import Attended, Rows, Run, attend, contract, expand

__all__ = ["Attended", "Rows", "Run", "attend", "contract", "expand"]
