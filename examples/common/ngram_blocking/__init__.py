"""A fairseq --user-dir: the stock translation task, with n-gram blocking that works everywhere.

fairseq 0.12 ignores --no-repeat-ngram-size unless its own CUDA extension is built and a GPU is
there. BART's published settings use it, so the baseline needs it; attention stays fairseq's own.
"""

from __future__ import annotations

from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from el_attention.fairseq_plugin.ngrams import NGramBlock


@register_task("translation_with_ngram_blocking", dataclass=TranslationConfig)
class TranslationWithNGramBlocking(TranslationTask):
    """fairseq's translation task with a generator that obeys --no-repeat-ngram-size."""

    def build_generator(self, models: Any, args: Any, *others: Any, **options: Any) -> Any:
        """Builds fairseq's generator and gives it the blocking of this project."""
        generator = super().build_generator(models, args, *others, **options)
        if args.no_repeat_ngram_size > 0:
            generator.repeat_ngram_blocker = NGramBlock(args.no_repeat_ngram_size)
        return generator
