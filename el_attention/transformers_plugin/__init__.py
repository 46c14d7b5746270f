"""The front end of Hugging Face Transformers: everything here imports it, nothing else does."""

from el_attention.transformers_plugin.convert import convert
from el_attention.transformers_plugin.generate_many import generate_many
from el_attention.transformers_plugin.load import load
from el_attention.transformers_plugin.text_generator import Generated, TextGenerator

__all__ = ["Generated", "TextGenerator", "convert", "generate_many", "load"]
