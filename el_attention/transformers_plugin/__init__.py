"""The front end of Hugging Face Transformers: everything here imports it, nothing else does."""

from el_attention.transformers_plugin.convert import convert

__all__ = ["convert"]
