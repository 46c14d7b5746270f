"""Beam search over anything that scores the next token; knows nothing of fairseq."""

from el_attention.search.beam import beam_search
from el_attention.search.hypotheses import Hypothesis
from el_attention.search.settings import Scorer, Settings

__all__ = ["Hypothesis", "Scorer", "Settings", "beam_search"]
