"""Generation for a corpus: from a file on one machine to shards and processes, every row once."""

from el_attention.corpus.engine import Recipe
from el_attention.corpus.generator import Generator
from el_attention.corpus.merge import merge
from el_attention.corpus.run import Report, Shard, generate
from el_attention.corpus.source import Source

__all__ = ["Generator", "Recipe", "Report", "Shard", "Source", "generate", "merge"]
