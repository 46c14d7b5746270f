"""Checkpoints between fairseq and Transformers: BART, and language models as GPT-2."""

from el_attention.exchange.convert import convert_checkpoint
from el_attention.exchange.weights import (
    Rule,
    bart_rules,
    gpt2_rules,
    parameters,
    to_fairseq,
    to_transformers,
)

__all__ = [
    "Rule",
    "bart_rules",
    "convert_checkpoint",
    "gpt2_rules",
    "parameters",
    "to_fairseq",
    "to_transformers",
]
