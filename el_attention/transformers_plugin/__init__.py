"""The front end of Hugging Face Transformers: everything here imports it, nothing else does."""

from el_attention.transformers_plugin.convert import convert
from el_attention.transformers_plugin.generate_many import Generated, generate_many

__all__ = ["Generated", "convert", "generate_many"]
