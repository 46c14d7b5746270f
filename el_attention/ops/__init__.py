"""The operators of EL-attention, independent of fairseq and of where states live."""

from el_attention.ops.compiled import MAX_SEGMENTS
from el_attention.ops.narrow import NARROW_DTYPES, narrowed
from el_attention.ops.operators import attend, block_ngrams_, linear, log_sum_exp, top_candidates
from el_attention.ops.reference import Attended, Rows, contract, expand, softmax_dtype

__all__ = [
    "MAX_SEGMENTS",
    "NARROW_DTYPES",
    "Attended",
    "Rows",
    "attend",
    "block_ngrams_",
    "contract",
    "expand",
    "linear",
    "log_sum_exp",
    "narrowed",
    "softmax_dtype",
    "top_candidates",
]
