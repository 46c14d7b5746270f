"""The generators that are compared: subclasses and options of fairseq, nothing of it is changed."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fairseq.models import BaseFairseqModel
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from fairseq.tasks import FairseqTask
from torch import Tensor

import el_attention
from el_attention.attention import PLANS
from el_attention.fairseq_plugin.ngrams import NGramBlock
from research.tables.cells import NO_CACHE, PER_BEAM, STOCK


class UntoldEnsemble(EnsembleModel):
    """An ensemble whose models are never told the beam, so that BART too keeps states per beam."""

    def set_decoder_beam_size(self, beam_size: int) -> None:
        """Does nothing; fairseq calls `set_beam_size` of BART from here, and only from here."""


class PerBeamEnsemble(UntoldEnsemble):
    """Keeps and reorders states as fairseq 0.9 did.

    There every beam has its own keys and values of the source, and each step copies them in the
    new order of the beams (fairseq v0.9.0, modules/multihead_attention.py). fairseq 0.12 leaves
    them where they are unless sentences have finished.
    """

    def reorder_incremental_state(
        self, incremental_states: list[dict[str, Any]], new_order: Tensor
    ) -> None:
        """Reorders all states; see fairseq's `EnsembleModel.reorder_incremental_state`."""
        for model, state in zip(self.models, incremental_states, strict=True):
            for attention in encoder_attentions(model):
                kept = attention._get_input_buffer(state)
                for name, tensor in kept.items():
                    # Where the sizes differ fairseq 0.12 selects, below.
                    if tensor is not None and len(tensor) == len(new_order):
                        kept[name] = tensor.index_select(0, new_order)
        super().reorder_incremental_state(incremental_states, new_order)


class NoCacheEnsemble(UntoldEnsemble):
    """Computes the whole prefix again at each step, from encoder outputs per beam."""

    def has_incremental_states(self) -> bool:
        """No state is given to decoders."""
        return False


ENSEMBLES = {NO_CACHE: NoCacheEnsemble, PER_BEAM: PerBeamEnsemble, STOCK: EnsembleModel}


def encoder_attentions(model: BaseFairseqModel) -> list[MultiheadAttention]:
    """The encoder-decoder attentions of a model."""
    return [
        module
        for module in model.decoder.modules()
        if isinstance(module, MultiheadAttention) and module.encoder_decoder_attention
    ]


def build_generator(
    system: str, model: BaseFairseqModel, task: FairseqTask, options: dict[str, Any]
) -> SequenceGenerator:
    """Builds the generator of a system around `model`, which belongs to that system from then on.

    Args:
        system: one of `research.tables.cells.SYSTEMS` or `NO_CACHE`.
        model: in eval mode.
        task: whose `build_generator` is fairseq's.
        options: the options of fairseq's generation configuration.
    """
    ensemble = ENSEMBLES.get(system, EnsembleModel)([model])
    generator = task.build_generator(ensemble, Namespace(**options))
    if system in PLANS:
        return el_attention.convert(generator, system)
    if generator.repeat_ngram_blocker is not None:
        # fairseq's does nothing without its CUDA extension: all systems block in the same way.
        generator.repeat_ngram_blocker = NGramBlock(options["no_repeat_ngram_size"])
    return generator
