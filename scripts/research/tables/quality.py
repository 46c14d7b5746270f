"""Scores hypotheses against the text of a data set's targets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from common.lines import one_line
from common.pieces import decoder
from common.report import first_sentences
from common.scores import Scores, rouge
from research.tables.inputs import Inputs

# Of what a language model adds to its prompt, as in examples/summarization_gpt2.
SENTENCES = 3


def score(inputs: Inputs, hypotheses: Sequence[Tensor], pieces: str) -> Scores:
    """Returns ROUGE of hypotheses.

    Args:
        inputs: with references.
        hypotheses: int64 [length] for each source, prompts included.
        pieces: how tokens become text: see `common.pieces.decoder`.
    """
    assert inputs.references is not None
    symbols, decode = inputs.task.target_dictionary, decoder(pieces)
    texts = []
    for source, tokens in zip(inputs.sources, hypotheses, strict=True):
        generated = tokens[len(source) :] if inputs.prompts else tokens
        text = decode(symbols.string(generated.cpu()))
        texts.append(one_line(first_sentences(text, SENTENCES) if inputs.prompts else text))
    return rouge(texts, inputs.references)
