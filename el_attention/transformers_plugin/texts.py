"""Texts as tokens, and why nothing can be generated for some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from el_attention.decoder import stored_weight
from el_attention.robust.memory import is_out_of_memory
from el_attention.transformers_plugin.inputs import Reader
from el_attention.transformers_plugin.options import Options


class Texts(Reader):
    """Makes tokens of texts."""

    def __init__(self, model: Any, tokenizer: Any, options: Options, truncation: bool) -> None:
        """Takes what does not depend on the text.

        Args:
            model: the model that is to read the tokens.
            tokenizer: the tokenizer of the model.
            options: the options of the generation.
            truncation: whether texts that are too long are cut.
        """
        self._tokenizer, self._options, self._device = tokenizer, options, model.device
        known = (model.config.pad_token_id, getattr(tokenizer, "pad_token_id", None), 0)
        self._padding = next(token for token in known if token is not None)
        self._vocabulary = stored_weight(model.get_input_embeddings()).size(0)
        self._continues = not model.config.is_encoder_decoder
        self._positions = getattr(model.config, "max_position_embeddings", None)
        self._cut: dict[str, Any] = {}
        if truncation:
            limits = [tokenizer.model_max_length]
            if self._positions is not None:
                more = options.new_tokens(0) - 1 if self._continues else 0
                limits.append(max(1, self._positions - more))
            self._cut = {"truncation": True, "max_length": min(limits)}

    def read(self, thing: Any) -> list[int] | str:
        """Returns the tokens of a text, or why nothing is generated for it."""
        if not isinstance(thing, str):
            return f"expected a text, got {type(thing).__name__}"
        try:
            found = self._tokenizer(thing, return_special_tokens_mask=True, **self._cut)
        except Exception as error:  # as many kinds as there are tokenizers
            if is_out_of_memory(error):
                raise
            return f"the tokenizer cannot read it: {type(error).__name__}: {error}"
        tokens: list[int] = list(found["input_ids"])
        if all(found["special_tokens_mask"]):
            return "it is empty: the tokenizer finds nothing in it"
        odd = [token for token in tokens if not 0 <= token < self._vocabulary]
        if odd:
            return f"token {odd[0]} is none of the model's, which has {self._vocabulary}"
        return self._too_long(len(tokens)) or tokens

    def together(self, rows: Sequence[list[int]]) -> dict[str, Tensor]:
        """Returns tokens, and the mask of those that are no padding, int64 [texts, tokens]."""
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self._padding)
        mask = torch.zeros_like(tokens)
        for index, row in enumerate(rows):
            left = longest - len(row) if self._continues else 0
            tokens[index, left : left + len(row)] = torch.tensor(row)
            mask[index, left : left + len(row)] = 1
        return {"input_ids": tokens.to(self._device), "attention_mask": mask.to(self._device)}

    def states(self, length: int) -> int:
        """Returns the number of tokens."""
        return length

    def _too_long(self, length: int) -> str | None:
        if not self._continues:
            if self._positions is not None and length > self._positions:
                return f"it is too long: {length} tokens, the model reads {self._positions} at most"
            return None
        new = self._options.new_tokens(length)
        if new < 1:
            return f"it is too long: {length} tokens, max_length leaves none to generate"
        # The last token is not read.
        if self._positions is not None and length + new - 1 > self._positions:
            return (
                f"it is too long: {length} tokens and up to {new} new ones, the model has "
                f"{self._positions} positions"
            )
        return None
