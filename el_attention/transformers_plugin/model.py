"""A model of Transformers whose `generate` takes its steps by the runtime."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from transformers.generation.configuration_utils import GenerationConfig, GenerationMode
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.utils import ModelOutput

from el_attention.attention import Planner
from el_attention.decoder import DecoderSpec, NarrowWeights
from el_attention.specialize import Specialized
from el_attention.state import Source
from el_attention.transformers_plugin import version_4
from el_attention.transformers_plugin.beam_search import BeamSearch
from el_attention.transformers_plugin.cache import DecodingCache
from el_attention.transformers_plugin.encoder import encoded
from el_attention.transformers_plugin.families import family_of
from el_attention.transformers_plugin.family import Family, architecture_of
from el_attention.transformers_plugin.outputs import output_of
from el_attention.transformers_plugin.processors import Processors
from el_attention.transformers_plugin.rules import rules_of, stop_by_row
from el_attention.transformers_plugin.served import (
    ARGUMENTS,
    PASSED_ON,
    shares_encoder_output,
    unserved_distances,
    unserved_model,
    unserved_run,
    unserved_source,
)

# At run time a class of Transformers stands behind it.
_Model: Any = object

logger = logging.getLogger(__name__)


class ELModel(Specialized, _Model):
    """Keeps one encoder output, one prompt and one tree of states for all beams of a sentence.

    Greedy search and sampling are those of Transformers; beam search is `BeamSearch`, but where
    what it leaves out is to be returned.

    Attributes:
        el_plan: the plan that was asked for.
        el_memory_budget: bytes for states and temporaries, or None for what is free.
        el_announced: the reasons for stock's way that have been logged.
        el_narrow: the weights that are kept in 16 bits, too.
    """

    el_plan: str
    el_memory_budget: int | None
    el_announced: set[str]
    el_narrow: NarrowWeights

    @classmethod
    def _members(cls, base: type) -> dict[str, Any]:
        # Transformers saves, looks up and prints models by the name of their class.
        stock: Any = base

        @functools.wraps(stock.forward)
        def forward(self: ELModel, *args: Any, **kwargs: Any) -> Any:
            for name, value in kwargs.items():
                if isinstance(value, DecodingCache):
                    return self._el_forward(name, value, args, kwargs)
            return stock.forward(self, *args, **kwargs)

        return {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "forward": forward,
        }

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        stock, family = super()._prepare_text_encoder_decoder_kwargs_for_generation, family_of(self)

        def encode(inputs: Tensor, arguments: dict[str, Any]) -> Any:
            return stock(inputs, arguments, *args, **kwargs)

        if family is None or not family.has_own_encoder:
            whole: dict[str, Any] = encode(inputs_tensor, model_kwargs)
            return whole
        return encoded(encode, self.get_encoder(), inputs_tensor, model_kwargs)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        # Not the encoder output: the run may not need it, which is known at its cache.
        repeats = is_encoder_decoder and not shares_encoder_output(model_kwargs)
        expanded: tuple[Tensor, dict[str, Any]] = super()._expand_inputs_for_generation(
            expand_size, repeats, input_ids, **model_kwargs
        )
        return expanded

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        is_shared = shares_encoder_output(model_kwargs)
        before = dict(model_kwargs)
        result = super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *args, **kwargs
        )
        beam = max(generation_config.num_beams, generation_config.num_return_sequences)
        added = [name for name in model_kwargs if name not in before]
        found = (*args, *kwargs.values())
        mode = next((x for x in found if isinstance(x, GenerationMode)), None)
        reason = unserved_run(generation_config, before, mode, self.config.is_encoder_decoder)
        if reason is None and len(added) != 1:
            reason = "use_cache is off"
        if reason is None:
            reason = unserved_model(self) or version_4.unserved(self, generation_config)
        if reason is None:
            cache = self._el_cache(generation_config, before, beam)
            if isinstance(cache, DecodingCache):
                model_kwargs[added[0]] = cache
                return result
            reason = cache
        if reason not in self.el_announced:
            self.el_announced.add(reason)
            logger.info(f"{type(self).__name__}: generation by Transformers, because {reason}")
        if is_shared and beam > 1:
            _, repeated = super()._expand_inputs_for_generation(
                beam, True, None, encoder_outputs=model_kwargs["encoder_outputs"]
            )
            model_kwargs.update(repeated)
        return result

    def _beam_search(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        *args: Any,
        **model_kwargs: Any,
    ) -> Any:
        given = {k: v for k, v in model_kwargs.items() if isinstance(v, DecodingCache)}
        cache, rules = next(iter(given.values()), None), None
        # The rules are those of Transformers 5.
        if cache is not None and not version_4.IS_4:
            rules = rules_of(generation_config, cache.vocab_size)
        if cache is None or rules is None:
            return super()._beam_search(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                *args,
                **model_kwargs,
            )
        processors = Processors(logits_processor)
        prefix = "decoder_" if self.config.is_encoder_decoder else ""
        has_positions = model_kwargs.get(f"{prefix}position_ids") is not None
        returns_more = bool(generation_config.return_dict_in_generate)
        search = BeamSearch(
            _Continuation(self, cache, has_positions),
            rules,
            processors,
            stopping_criteria,
            input_ids,
            # Rows of other results are counted over all sentences.
            not returns_more and processors.by_row and stop_by_row(stopping_criteria),
        )
        logits = self._prefill(input_ids, generation_config, model_kwargs).logits[:, -1]
        found = search.run(logits)
        if not returns_more:
            return found.tokens
        return output_of(found, generation_config, self.config.is_encoder_decoder, **given)

    def _el_cache(
        self, config: GenerationConfig, arguments: dict[str, Any], beam: int
    ) -> DecodingCache | str:
        """Returns the cache of a run, or why it is not served."""
        family = family_of(self)
        assert family is not None
        source, outputs = None, arguments.get("encoder_outputs")
        if outputs is not None:
            mask = arguments.get("attention_mask")
            mask = None if mask is None else mask[::beam]
            states, mask = family.source(self, outputs[0], mask)
            reason = unserved_source(states, mask)
            if reason is not None:
                return reason
            source = Source(states.transpose(0, 1), None if mask is None else mask == 0)
        spec = self.el_spec(source is not None)
        if spec.position_biases and spec.embedding.positions is not None:
            reason = unserved_distances(arguments)
            if reason is not None:
                return reason
        limit, longest = spec.embedding.limit, config.max_length
        if limit is not None and (longest is None or longest - 1 > limit):
            return f"sequences of {longest} tokens may be longer than its {limit} positions"
        planner = Planner(self.el_plan, architecture_of(self, family, spec), self.el_memory_budget)
        is_returned = bool(config.return_dict_in_generate)
        return DecodingCache(
            spec, planner, beam, source, is_returned, config.min_length or 0, longest
        )

    def el_spec(self, has_source: bool) -> DecoderSpec:
        """Describes its decoder as it is now, with narrow weights; see `Family.describe`."""
        family = family_of(self)
        assert family is not None
        return self.el_narrow.added_to(family.describe(self, has_source))

    def _el_forward(
        self,
        cache_name: str,
        cache: DecodingCache,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> ModelOutput:
        """Takes a step of a run.

        Raises:
            ValueError: if it is given what the run was not begun with.
        """
        family = family_of(self)
        assert family is not None
        tokens_name = "decoder_input_ids" if self.config.is_encoder_decoder else "input_ids"
        known = (tokens_name, cache_name, *ARGUMENTS, *PASSED_ON)
        odd = [name for name, value in kwargs.items() if name not in known and value]
        if args or odd or kwargs.get(tokens_name) is None:
            raise ValueError(
                f"forward: expected {tokens_name} and the arguments that generate gives, got "
                f"{len(args)} without names, {odd}"
            )
        tokens = kwargs[tokens_name]
        with torch.no_grad():
            places = self._el_places(family, cache, tokens, kwargs)
            logits = cache.advance(tokens, *places).unsqueeze(1)
        encoder_outputs = kwargs.get("encoder_outputs")
        more = {} if encoder_outputs is None else {"encoder_last_hidden_state": encoder_outputs[0]}
        return family.output(logits=logits, **{cache_name: cache}, **more)

    def _el_places(
        self, family: Family, cache: DecodingCache, tokens: Tensor, arguments: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns positions of tokens, int64 [N, n], and where they are padding, bool [N, n].

        Raises:
            ValueError: if the mask of the first tokens is not as long as they are.
        """
        prefix = "decoder_" if self.config.is_encoder_decoder else ""
        mask = arguments.get(f"{prefix}attention_mask")
        is_padding = None
        if mask is not None and cache.decoding is None:
            if mask.shape != tokens.shape:
                raise ValueError(
                    f"{prefix}attention_mask: expected {tuple(tokens.shape)}, the shape of the "
                    f"tokens, got {tuple(mask.shape)}"
                )
            is_padding = mask == 0
        past = cache.get_seq_length()
        positions = arguments.get(f"{prefix}position_ids")
        if positions is None:
            positions = family.positions(self, tokens, past)
        if positions is None and is_padding is not None:
            positions = torch.arange(past, past + tokens.size(1), device=tokens.device)
        return None if positions is None else positions.expand(tokens.shape), is_padding


class _Continuation:
    """Continues the sequences of a run by single tokens."""

    def __init__(self, model: ELModel, cache: DecodingCache, has_positions: bool) -> None:
        """Goes on after the prompt.

        Args:
            model: the model of the run.
            cache: the cache of the run.
            has_positions: whether the prompt came with positions, which just go on.
        """
        self._model = model
        self._cache = cache
        self._family = None if has_positions else family_of(model)

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns the logits [N, V] after the newest tokens, int64 [N]."""
        newest, cache, positions = tokens.unsqueeze(1), self._cache, None
        if self._family is not None:
            positions = self._family.positions(self._model, newest, cache.get_seq_length())
        if positions is None and cache.next_positions is not None:
            positions = cache.next_positions.unsqueeze(1)
        return cache.advance(newest, positions)

    def reorder(self, rows: Tensor) -> None:
        """Goes on with the sequences `rows`, int64 [N'], on the host."""
        self._cache.reorder_cache(rows)
