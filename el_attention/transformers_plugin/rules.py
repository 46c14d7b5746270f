"""The rules of a search, and what does not fit them."""

from __future__ import annotations

from dataclasses import dataclass

from transformers.generation import stopping_criteria as stopping
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteriaList

_BY_ROW = (
    stopping.EosTokenCriteria,
    stopping.MaxLengthCriteria,
    stopping.MaxTimeCriteria,
    stopping.StopStringCriteria,
)


@dataclass(frozen=True)
class Rules:
    """The options of a search, as `GenerationConfig` has them.

    Attributes:
        beam: beams of each sentence, B.
        candidates: continuations of each sentence that are looked at, K.
        returned: hypotheses of each sentence that are returned.
        max_length: most tokens of a sequence, the prompt included.
        early_stopping: True, False or "never".
        length_penalty: scores are divided by the number of new tokens to this power.
        fill: token behind the end of a sequence.
        keeps_scores: whether the log-probabilities of all steps are returned.
        keeps_logits: whether the logits of all steps are returned.
    """

    beam: int
    candidates: int
    returned: int
    max_length: int
    early_stopping: bool | str
    length_penalty: float
    fill: int
    keeps_scores: bool
    keeps_logits: bool


def rules_of(config: GenerationConfig, vocab_size: int) -> Rules | None:
    """Returns the rules of a search; None if it draws."""
    if config.do_sample or config.low_memory:
        return None
    pad, eos = config._pad_token_tensor, config._eos_token_tensor
    ends = 0 if eos is None else len(eos)
    candidates = max(2, 1 + ends) * config.num_beams
    if candidates > config.num_beams * vocab_size:
        return None
    fill = -1
    if eos is not None:  # a padding token of 0 is taken for none
        fill = int(pad) if pad else int(eos[0])
    return Rules(
        beam=config.num_beams,
        candidates=candidates,
        returned=config.num_return_sequences,
        max_length=config.max_length,
        early_stopping=config.early_stopping,
        length_penalty=config.length_penalty,
        fill=fill,
        keeps_scores=bool(config.return_dict_in_generate and config.output_scores),
        keeps_logits=bool(config.return_dict_in_generate and config.output_logits),
    )


def stop_by_row(criteria: StoppingCriteriaList) -> bool:
    """Whether each sequence stops without the others, and whatever its number."""
    return all(type(criterion) in _BY_ROW for criterion in criteria)
