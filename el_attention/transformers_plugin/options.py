"""The options of a generation: how much is generated, and which texts may share a batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import NoneType
from typing import Any

from torch import Tensor
from transformers.generation import GenerationConfig, GenerationMixin

from el_attention.transformers_plugin.encoder_decoder import EncoderDecoder, Whisper
from el_attention.transformers_plugin.families import family_of
from el_attention.transformers_plugin.gpt2 import GPT2
from el_attention.transformers_plugin.gpt_neo import GPTNeo
from el_attention.transformers_plugin.opt import OPT
from el_attention.transformers_plugin.t5 import T5

logger = logging.getLogger(__name__)

# Families that read sources, or prompts, with padding as they do without.
_PADDED = (EncoderDecoder, GPT2, GPTNeo, OPT, T5)

# Options whose effect on a text depends on nothing beside its own tokens and their number.
_BY_TEXT = {
    "bos_token_id",
    "decoder_start_token_id",
    "early_stopping",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "forced_eos_token_id",
    "length_penalty",
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "pad_token_id",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "suppress_tokens",
    "begin_suppress_tokens",
    "use_cache",
}
# The same behind an encoder; they read the prompt of a language model with its padding.
_BY_TARGET = {
    "bad_words_ids",
    "forced_bos_token_id",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "sequence_bias",
}
# They read the source or prompt with its padding.
_BY_SOURCE = {"encoder_no_repeat_ngram_size", "encoder_repetition_penalty"}
# Of Whisper: the same for every sound.
_OF_WHISPER = {
    "alignment_heads",
    "forced_decoder_ids",
    "is_multilingual",
    "lang_to_id",
    "language",
    "max_initial_timestamp_index",
    "no_timestamps_token_id",
    "prev_sot_token_id",
    "prompt_ids",
    "return_timestamps",
    "task",
    "task_to_id",
}
# Without sampling they do nothing.
_OF_SAMPLING = {
    "epsilon_cutoff",
    "eta_cutoff",
    "min_p",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
}
# What a file of options says of itself.
_NO_OPTIONS = {"_from_model_config", "transformers_version", "generation_config"}
_MADE_HERE = {
    "attention_mask",
    "encoder_outputs",
    "input_features",
    "input_ids",
    "inputs",
    "inputs_embeds",
}
_NOT_RETURNED = {
    "custom_generate",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "past_key_values",
    "return_segments",
    "return_token_timestamps",
}
# Without any option Transformers generates as many, if there are positions for them.
_NEW_TOKENS = 20


class Options:
    """The options of `generate` for all texts of a run.

    Attributes:
        given: what the caller gave.
        beam: sequences of each text while it is generated.
        is_whisper: whether the model is Whisper, which generates in a way of its own.
        draws: whether tokens are drawn at random.
        keeps_scores: whether the scores of all tokens are kept at every step.
        padding: the token behind hypotheses, or None.
        ends: the tokens that end a hypothesis.
        decoder_prompt: tokens that the decoder begins with, behind an encoder.
        apart: why a text has a batch of its own, or None.
        one_length: why only texts of one length share a batch, or None.
    """

    def __init__(self, model: Any, given: Mapping[str, Any]) -> None:
        """Takes what `generate` would take.

        Args:
            model: whose generation configuration holds where nothing is given.
            given: options of `generate`.

        Raises:
            ValueError: if there is an option that cannot be served.
        """
        for name in given:
            if name in _MADE_HERE:
                raise ValueError(f"generate_many: {name} is made of the texts, got one")
            if name in _NOT_RETURNED and given[name]:
                raise ValueError(
                    f"generate_many: expected options of texts, tokens and scores, got {name}"
                )
        for name, kind in (("generation_config", GenerationConfig), ("decoder_input_ids", Tensor)):
            if not isinstance(given.get(name), (kind, NoneType)):
                found = type(given[name]).__name__
                raise ValueError(f"generate_many: {name}: expected a {kind.__name__}, got {found}")
        self.given = dict(given)
        self.is_whisper = isinstance(family_of(model), Whisper)
        self._positions = getattr(model.config, "max_position_embeddings", None)
        self._values = dict(model.generation_config.to_diff_dict())
        if given.get("generation_config") is not None:
            self._values |= _set(given["generation_config"].to_diff_dict())
        self._values = _set({**self._values, **given})
        ends = self._values.get("eos_token_id", ())
        self.ends = {ends} if isinstance(ends, int) else set(ends)
        self.draws = self._draws()
        self.padding: int | None = self._values.get("pad_token_id")
        self.keeps_scores = bool(self._values.get("output_scores"))
        if self.is_whisper and self.keeps_scores:
            raise ValueError("generate_many: expected no output_scores for Whisper, got it")
        numbers = {
            name: self._values.get(name, 1) for name in ("num_beams", "num_return_sequences")
        }
        for name, number in numbers.items():
            if not isinstance(number, int) or number < 1:
                raise ValueError(
                    f"generate_many: {name}: expected a whole number from 1, got {number!r}"
                )
        self.beam = max(numbers.values())
        prompt = self._values.get("decoder_input_ids")
        self.decoder_prompt = 1 if prompt is None else max(1, prompt.size(-1))
        self.apart = self._reason_for_batches_of_one(model)
        self.one_length = self._reason_for_one_length(model)
        if self.apart is not None:
            logger.warning(
                f"generate_many: every text has a batch of its own, because {self.apart}"
            )
        elif self.one_length is not None:
            logger.info(
                f"generate_many: texts of one length share a batch, because {self.one_length}"
            )

    def new_tokens(self, prompt: int) -> int:
        """Returns how many tokens are generated at most.

        Args:
            prompt: tokens that the decoder begins with.
        """
        new: int | None = self._values.get("max_new_tokens")
        if new is not None:
            return new
        longest: int | None = self._values.get("max_length")
        if longest is not None:
            return longest - prompt
        return (
            _NEW_TOKENS if self._positions is None else min(_NEW_TOKENS, self._positions - prompt)
        )

    def _draws(self) -> bool:
        if not self.is_whisper:
            return bool(self._values.get("do_sample"))
        # It samples at temperatures, and nowhere else.
        temperatures = self.given.get("temperature")
        if not isinstance(temperatures, (list, tuple)):
            temperatures = (temperatures,)
        return any(temperatures)

    def _reason_for_batches_of_one(self, model: Any) -> str | None:
        if not self.is_whisper and type(model).generate is not GenerationMixin.generate:
            return f"{type(model).__name__} generates in a way of its own"
        if self.draws:
            return "do_sample draws for all texts of a batch together"
        known = _BY_TEXT | _BY_TARGET | _BY_SOURCE | _OF_SAMPLING | _NO_OPTIONS
        if self.is_whisper:
            known = known | _OF_WHISPER
        unknown = sorted(self._values.keys() - known)
        if unknown:
            return f"{', '.join(unknown)} may depend on the other texts of a batch"
        return None

    def _reason_for_one_length(self, model: Any) -> str | None:
        if model.main_input_name != "input_ids":
            return "encoders of sounds may depend on the padding"
        if not isinstance(family_of(model), _PADDED):
            return f"{type(model).__name__} may depend on the padding"
        if model.config.is_encoder_decoder:
            reading, what = self._values.keys() & _BY_SOURCE, "counts the padding of sources"
        else:
            reading = self._values.keys() & (_BY_TARGET | _BY_SOURCE)
            what = "counts the padding of prompts"
            if "max_new_tokens" in self._values:
                reading = reading - {"max_length"}
            else:
                reading = reading | {"max_length"}
        return f"{', '.join(sorted(reading))} {what}" if reading else None


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that are set to something."""
    return {
        name: value
        for name, value in values.items()
        if value is not None
        and value is not False
        and not (name.endswith("ngram_size") and value == 0)
        and not (name.endswith("repetition_penalty") and value == 1)
    }
