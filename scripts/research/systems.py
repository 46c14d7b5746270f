"""How generators keep, move and read their attention states: this package, and the paper's rivals.

Counts of passes and operators are read off the sources that each entry names; none is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from el_attention.cost import Plans


@dataclass(frozen=True, kw_only=True)
class System(Plans):
    """One generator, more than the plans of its attentions.

    A pass is one read or one write of a whole state; reading it for attention is not counted here.

    Attributes:
        name: what users call it.
        cached: states are kept between steps; else every step computes the whole prefix again.
        per_beam: each beam has its own copy of what the source or prompt left.
        source_append: passes per step over what the prompt left, to append a token to it.
        source_reorder: passes per step over what the source or prompt left, for a new beam order.
        self_append: the same over the states of generated tokens.
        self_reorder: the same.
        reorders_single: reorders for a beam of one too.
        outputs: encoder outputs kept beside what attention reads: unused embeddings, other layouts.
        outputs_reorder: passes per step over each of them.
        double_buffered: old and new states of all layers are alive together.
        records_attention: keeps and reorders a float32 record of source x target weights.
        fused: one kernel computes a step's attention and leaves no scores in memory.
        encoder_scores: the encoder runs over parts of the batch with at most this many scores per
            layer; None: over the whole batch at once.
        all_logits: a prompt leaves logits at all its positions, not only at the last.
        prompt_at_once: a prompt is one pass; else a step per token and beam.
        layer_operations: operators called per decoder layer and step, views included.
        step_operations: the same per step, for embedding, vocabulary and search.
        row_operations: operators and waits per hypothesis and step, where beam search walks over
            candidates on the host.
    """

    name: str
    cached: bool = True
    per_beam: bool = False
    source_append: int = 0
    source_reorder: int = 0
    self_append: int = 0
    self_reorder: int = 0
    reorders_single: bool = True
    outputs: int = 0
    outputs_reorder: int = 0
    double_buffered: bool = False
    records_attention: bool = False
    fused: bool = False
    encoder_scores: int | None = None
    all_logits: bool = False
    prompt_at_once: bool = True
    layer_operations: int = 108
    step_operations: int = 80
    row_operations: int = 0


# fairseq v0.9.0, modules/multihead_attention.py and sequence_generator.py: keys and values of the
# source per beam, reordered at every step like everything else; torch.cat appends.
FAIRSEQ_09 = System(
    name="fairseq 0.9",
    per_beam=True,
    source_reorder=2,
    self_append=2,
    self_reorder=2,
    outputs=2,
    outputs_reorder=2,
)
# The same without incremental state: the paper's "no cache".
NO_CACHE = System(name="no cache", cached=False, per_beam=True, outputs=2, outputs_reorder=2)
# fairseq v0.12.2 for any model but BART: keys and values of the source stay where they are, but the
# replicated encoder output and embedding are reordered, and attention is recorded.
FAIRSEQ_012 = System(
    name="fairseq 0.12",
    per_beam=True,
    self_append=2,
    self_reorder=2,
    outputs=2,
    outputs_reorder=2,
    records_attention=True,
    layer_operations=104,
)
# The same for BART, where `set_beam_size` shares keys, values and encoder output between beams.
FAIRSEQ_012_BART = System(
    name="fairseq 0.12, BART",
    self_append=2,
    self_reorder=2,
    outputs=2,
    records_attention=True,
    layer_operations=104,
)
# Either version for language models: the prompt is generated like the rest, token by token.
FAIRSEQ_LM = System(
    name="fairseq 0.9 and 0.12, language model",
    per_beam=True,
    source_append=2,
    source_reorder=2,
    self_append=2,
    self_reorder=2,
    prompt_at_once=False,
    layer_operations=72,
)
# Transformers v3.0.2, modeling_gpt2.py and generation_utils.py: torch.cat and torch.stack copy the
# whole cache at each step, _reorder_cache builds a second one, logits of all prompt positions, and
# a Python loop over sentences and candidates with an `.item()` for each.
TRANSFORMERS_3 = System(
    name="Transformers 3.0.2",
    per_beam=True,
    source_append=4,
    source_reorder=2,
    self_append=4,
    self_reorder=2,
    reorders_single=False,
    double_buffered=True,
    all_logits=True,
    layer_operations=63,
    step_operations=40,
    row_operations=9,
)
# The paper's, as published by its authors (fastseq, optimizer/fairseq/el_attention_optimizer.py):
# expanded queries for the source, kept in two layouts for batched products; self-attention as in
# fairseq; the encoder runs over parts of the batch with at most 2^29 attention weights.
PAPER_EL = System(
    name="EL (paper)",
    expanded=True,
    self_append=2,
    self_reorder=2,
    outputs=2,
    outputs_reorder=2,
    encoder_scores=2**29,
    layer_operations=124,
)
# The paper's for GPT-2, of which no source is public: the layer's input in place of keys and
# values, per beam; the rest as in Transformers.
PAPER_EL_LM = System(
    name="EL (paper), GPT-2",
    expanded=True,
    self_expanded=True,
    per_beam=True,
    source_append=2,
    source_reorder=2,
    self_append=2,
    self_reorder=2,
    reorders_single=False,
    double_buffered=True,
    all_logits=True,
    layer_operations=75,
    step_operations=40,
    row_operations=9,
)
# This package on a GPU: states in a tree that is never moved, read by one kernel. The number of
# operators is what the design aims at, not a count; beams are taken to share no generated tokens.
EXPANDED_QUERY = System(
    name="el_attention, expanded-query",
    expanded=True,
    self_expanded=True,
    fused=True,
    layer_operations=45,
    step_operations=60,
)
SHARED_PROJECTION = System(
    name="el_attention, shared-projection",
    outputs=1,
    fused=True,
    layer_operations=40,
    step_operations=60,
)
