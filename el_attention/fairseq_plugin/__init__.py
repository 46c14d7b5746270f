"""The fairseq layer: everything here imports fairseq, nothing else does."""

from el_attention.fairseq_plugin.checkpoints import allow_fairseq_checkpoints
from el_attention.fairseq_plugin.convert import convert
from el_attention.fairseq_plugin.registry import register_models, register_tasks
from el_attention.fairseq_plugin.text_generator import TextGenerator

__all__ = [
    "TextGenerator",
    "allow_fairseq_checkpoints",
    "convert",
    "register_models",
    "register_tasks",
]
