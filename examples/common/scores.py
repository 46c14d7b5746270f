"""ROUGE, BLEU and METEOR of hypotheses against one reference each, all times 100."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

Scores = dict[str, float]


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L by rouge-score, with stemming."""
    from rouge_score import rouge_scorer

    names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    scorer = rouge_scorer.RougeScorer(list(names), use_stemmer=True)
    scores = [
        scorer.score(reference, hypothesis)
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    return {
        name: 100 * fmean(score[kind].fmeasure for score in scores) for kind, name in names.items()
    }


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """BLEU-4 of the corpus by sacrebleu, with its 13a tokens, cased."""
    import sacrebleu

    return {"BLEU-4": sacrebleu.corpus_bleu(hypotheses, [references]).score}


def meteor(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Mean METEOR by nltk, on lower-cased 13a tokens.

    Raises:
        LookupError: if nltk's copy of WordNet is not there; says how to get it.
    """
    from nltk.corpus import wordnet
    from nltk.translate.meteor_score import meteor_score
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise LookupError(
            "METEOR needs WordNet, which nltk does not come with. Get it once with"
            " `python -m nltk.downloader wordnet`, point NLTK_DATA to a folder with"
            " corpora/wordnet in it, or leave METEOR out with --metrics"
        ) from None
    tokens = Tokenizer13a()

    def words(text: str) -> list[str]:
        return tokens(text.lower()).split()

    return {
        "METEOR": 100
        * fmean(
            meteor_score([words(reference)], words(hypothesis))
            for hypothesis, reference in zip(hypotheses, references, strict=True)
        )
    }


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], Scores]] = {
    "rouge": rouge,
    "bleu": bleu,
    "meteor": meteor,
}


def score(hypotheses: Sequence[str], references: Sequence[str], metrics: Sequence[str]) -> Scores:
    """The scores of all `metrics` (keys of `METRICS`), by their printed names.

    Raises:
        ValueError: if the two are empty or of different lengths.
        LookupError: if data of a metric is missing.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    scores: Scores = {}
    for metric in metrics:
        scores |= METRICS[metric](hypotheses, references)
    return scores
