"""Replacement of unknown words by source words, which fairseq's programs do by alignments."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from el_attention.fairseq_plugin.parts import Results
from el_attention.fairseq_plugin.wrapper import GeneratorWrapper

WITHOUT_FILE = "@@ "  # what fairseq's parser puts where the option has no value


def prepare_replacement(cfg: Any) -> None:
    """Sees to it that fairseq's program can read what --replace-unk says, before it does.

    The option without a file becomes an empty name, for which fairseq copies source words.

    Args:
        cfg: fairseq's whole configuration.

    Raises:
        ValueError: if the file is no dictionary, or words are not tokens.
    """
    name = getattr(cfg.generation, "replace_unk", None)
    if name is None:
        return
    for option, value in {
        "--post-process": cfg.common_eval.post_process,
        "--bpe": cfg.bpe,
        "--tokenizer": cfg.tokenizer,
    }.items():
        if value is not None:
            raise ValueError(
                f"--replace-unk: expected no {option}, because fairseq looks unknown words up by "
                "their number, and words are then no tokens"
            )
    if name in ("", WITHOUT_FILE):
        cfg.generation.replace_unk = ""
        return
    try:
        with open(name) as file:
            for number, line in enumerate(file, 1):
                if len(line.split()) < 2:
                    raise ValueError(
                        f"--replace-unk: expected lines of a source word and its translation, got "
                        f"{line!r} in line {number} of {name}"
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--replace-unk: expected a dictionary in a text file, got {error}") from (
            error
        )


def require_original_text(dataset: Any) -> None:
    """Sees to it that fairseq-generate finds the source words of a data set.

    Raises:
        ValueError: if there is no original text.
    """
    for side in ("src", "tgt"):
        part = getattr(dataset, side, None)
        if not hasattr(part, "get_original_text"):
            raise ValueError(
                "--replace-unk: expected a raw data set with the original text of both sides, "
                f"which --prepend-bos, --truncate-source and tokens of languages hide, got a "
                f"{type(dataset).__name__} whose {side} is a {type(part).__name__}"
            )


def language_tokens(task: Any) -> set[int]:
    """Returns the tokens in sources that stand for languages, by the names that fairseq gives."""
    words: Dictionary = task.source_dictionary
    names = [
        form.format(language)
        for language in getattr(task, "langs", None) or ()
        for form in ("[{}]", "__{}__")
    ]
    return {words.index(name) for name in names} - {words.unk()}


class AligningGenerator(GeneratorWrapper):
    """A generator that aligns every printed token with the source word that it attends to most.

    fairseq's programs take the alignment of a hypothesis for a list of printed source tokens, one
    for each token that they print, with which they replace unknown words.
    """

    def __init__(
        self, generator: Any, source: Dictionary, target: Dictionary, languages: Collection[int]
    ) -> None:
        """Stands before a generator that records attention weights.

        Args:
            generator: a generator of sequences; the token that ends them may be that of a language.
            source: the dictionary that prints sources.
            target: the dictionary that prints hypotheses.
            languages: source tokens that are printed, and are no words.
        """
        super().__init__(generator)
        self._source, self._target, self._languages = source, target, languages

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments.

        Raises:
            ValueError: if a hypothesis has no attention weights.
        """
        results: Results = self._generator.generate(models, sample, **arguments)
        # What fairseq's dictionaries do not print, and its programs have stripped.
        silent = {self._source.bos(), self._source.eos(), self._source.pad()}
        stripped = {self._target.bos(), self._target.eos()}
        stripped.update(self._generator.symbols_to_strip_from_output)
        for source, hypotheses in zip(sample["net_input"]["src_tokens"], results, strict=True):
            shown = _printed(source, silent)
            words = [i for i, t in enumerate(source[shown].tolist()) if t not in self._languages]
            for hypothesis in hypotheses:
                printed = _printed(hypothesis["tokens"], stripped)
                attention = hypothesis["attention"]
                if not attention.numel():
                    raise ValueError("--replace-unk: expected attention weights, got none")
                weights = attention.cpu()[shown[words]][:, printed]  # [words, printed tokens]
                # A source without words has nothing but its end, which follows what is printed.
                hypothesis["alignment"] = (
                    [words[best] for best in weights.argmax(0).tolist()]
                    if words
                    else [len(shown)] * len(printed)
                )
                hypothesis["attention"] = torch.empty(0)
        return results


def _printed(tokens: Tensor, silent: Collection[int]) -> Tensor:
    """The positions of tokens, int64 [length], that a dictionary prints."""
    return torch.tensor([i for i, t in enumerate(tokens.tolist()) if t not in silent]).long()
