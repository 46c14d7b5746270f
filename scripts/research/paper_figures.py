"""The published figures of EL-attention (Yan et al., ICML 2021), and what the paper leaves open.

Figures are as printed. Assumptions are inputs of the cost model; none was fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from el_attention.cost import ARCHITECTURES, Architecture
from research.systems import (
    FAIRSEQ_09,
    NO_CACHE,
    PAPER_EL,
    PAPER_EL_LM,
    TRANSFORMERS_3,
    System,
)

DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Task:
    """A task as the cost model sees it.

    The paper gives the beam and the limits of lengths. Batches are taken to be made of sources of
    similar length, as `fairseq-generate` does: the published float32 speeds are above what a V100's
    14 TFLOP/s allow for the encoder alone if all sources were padded to the limit. So memory is for
    the limit, time for the mean. Steps: sentences of a batch are taken to finish evenly between the
    first and the last.

    Attributes:
        name: as in the paper.
        beam: hypotheses.
        limit: longest source, tokens.
        mean: mean length of sources, tokens.
        first_end: step at which the first sentence of a batch is finished.
        last_end: step at which the last one is.
    """

    name: str
    beam: int
    limit: int
    mean: int
    first_end: int
    last_end: int


# SQuAD: paragraphs of 117 words on average (Rajpurkar et al., 2016), with the answer, 1.3 word
# pieces each; questions of 11 words on average, some three times as long.
SQUAD = Task("SQuAD 1.1", 4, 512, 160, 10, 32)
# XSum: documents of 431 words on average (Narayan et al., 2018), 1.15 subwords each; min-len and
# max-len-b of BART's published settings.
XSUM = Task("XSum", 6, 1024, 500, 10, 60)
# CNN/DailyMail: articles of 781 tokens on average (See et al., 2017); subwords lengthen, the cut at
# 1024 shortens; min-len and max-len-b of BART's published settings.
CNN_DM = Task("CNN/DM", 4, 1024, 800, 55, 140)
# The same for GPT-2: the authors' benchmark (fastseq, examples/gpt2) cuts prompts to 512 tokens and
# generates to 711; most articles are longer, and the batch runs until all are done.
CNN_DM_LM = Task("CNN/DM", 4, 512, 512, 199, 199)


@dataclass(frozen=True)
class Speed:
    """A row of the speed tables, samples/s on a V100 of 16 GB, in float16 and float32.

    Attributes:
        arch: the model.
        task: the task.
        search: "beam", "diverse beam" or "greedy".
        multi_head: speed of the baseline, (float16, float32).
        el: speed of EL-attention, (float16, float32).
    """

    arch: Architecture
    task: Task
    search: str
    multi_head: tuple[float, float]
    el: tuple[float, float]

    @property
    def systems(self) -> tuple[System, System]:
        """The baseline's generator and the paper's."""
        if self.arch.encoder is None:
            return TRANSFORMERS_3, PAPER_EL_LM
        return FAIRSEQ_09, PAPER_EL


_BART = ARCHITECTURES["bart.large"]
_TRANSFORMER = ARCHITECTURES["transformer"]
_SMALL, _MEDIUM = ARCHITECTURES["gpt-2.small"], ARCHITECTURES["gpt-2.medium"]
SPEEDS = (
    Speed(_TRANSFORMER, SQUAD, "beam", (170.9, 86.6), (458.1, 173.6)),
    Speed(_BART, XSUM, "beam", (14.7, 6.8), (69.4, 26.3)),
    Speed(_BART, CNN_DM, "beam", (5.7, 3.4), (28.6, 12.2)),
    Speed(_SMALL, CNN_DM_LM, "beam", (2.1, 1.5), (3.8, 2.5)),
    Speed(_MEDIUM, CNN_DM_LM, "beam", (0.9, 0.6), (2.0, 1.1)),
    Speed(_TRANSFORMER, SQUAD, "diverse beam", (162.3, 82.1), (454.1, 171.8)),
    Speed(_BART, XSUM, "diverse beam", (15.8, 7.2), (71.9, 27.5)),
    Speed(_BART, CNN_DM, "diverse beam", (5.4, 3.2), (28.5, 12.0)),
    Speed(_TRANSFORMER, SQUAD, "greedy", (436.4, 190.3), (699.7, 260.3)),
    Speed(_BART, XSUM, "greedy", (42.6, 15.0), (107.8, 44.9)),
    Speed(_BART, CNN_DM, "greedy", (13.0, 7.0), (40.0, 19.5)),
    Speed(_SMALL, CNN_DM_LM, "greedy", (14.7, 9.0), (26.2, 13.6)),
    Speed(_MEDIUM, CNN_DM_LM, "greedy", (5.9, 3.6), (10.4, 5.9)),
)

# bart.large on CNN/DM, float16, samples/s by batch; None is "out of memory".
BATCHES: tuple[tuple[System, dict[int, float | None]], ...] = (
    (NO_CACHE, {32: 1.9, 64: 1.9, 128: None, 320: None}),
    (FAIRSEQ_09, {32: 5.7, 64: None, 128: None, 320: None}),
    (PAPER_EL, {32: 8.0, 64: 12.6, 128: 21.3, 320: 28.6}),
)

# Input-related states of bart.large, beam 4, float16: (batch, source) -> (multi-head, EL), as
# printed, in "GB".
INPUT_STATES = {
    (32, 256): ("1.5", "0.02"),
    (32, 1024): ("6", "0.06"),
    (64, 256): ("3", "0.03"),
    (64, 1024): ("12", "0.13"),
    (320, 256): ("15", "0.15"),
    (320, 1024): ("60", "0.63"),
}
# The one cell that no rounding of S x d x 2 bytes per sentence gives: 0.15 for batch 320 and 256
# tokens means less than 0.155, hence less than 0.62 for 1024 tokens, where 0.63 is printed.
CONTRADICTORY = ((320, 256), "EL")
