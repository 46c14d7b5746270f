"""One randomised case: a model of Transformers, a batch and options of `generate`, in JSON.

`PYTHONPATH=. python tests/helpers/transformers_case.py '<json>'` runs a case again, and exits with
1 where the converted model gives another result.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

import torch

import el_attention
from reproducible import Reproducible, main
from transformers_models import assert_served, build, inputs


@dataclass(frozen=True)
class Case(Reproducible):
    """A model converted by `plan`, against itself unconverted.

    Attributes are options of `generate`, but for these:
        name: the name of the model.
        plan: the plan of attention.
        double: whether the model is float64, and not float32.
        lengths: the lengths of the sources or prompts.
        whole: whether the whole result is returned, and not its sequences.
        eos: how many tokens end a sequence.
    """

    name: str = "bart"
    plan: str = "expanded-query"
    double: bool = False
    lengths: tuple[int, ...] = (5, 2, 3)
    whole: bool = False
    eos: int = 1
    num_beams: int = 1
    num_return_sequences: int = 1
    do_sample: bool = False
    early_stopping: bool | str = False
    length_penalty: float = 1.0
    max_new_tokens: int = 9
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    forced_eos: bool = False
    top_k: int = 50

    def check(self) -> None:
        """Asserts equal results, by steps of the runtime."""
        stock = build(self.name, torch.float64 if self.double else torch.float32)
        ours = el_attention.convert(copy.deepcopy(stock), self.plan)
        expected, found = self._generated(stock), self._generated(ours)
        assert_served(ours)
        if not self.whole:
            assert torch.equal(expected, found), f"{expected.tolist()} and {found.tolist()}"
            return
        assert torch.equal(expected.sequences, found.sequences)
        for name in ("scores", "logits", "sequences_scores"):
            for one, other in zip(expected.get(name, ()), found.get(name, ()), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert ("beam_indices" in expected) == ("beam_indices" in found)
        if "beam_indices" in expected:
            assert torch.equal(expected.beam_indices, found.beam_indices)

    def _generated(self, model: Any) -> Any:
        options: dict[str, Any] = {"top_k": self.top_k} if self.do_sample else {}
        if self.num_beams > 1:
            options |= {
                "early_stopping": self.early_stopping,
                "length_penalty": self.length_penalty,
            }
        if self.whole:
            options |= {
                "return_dict_in_generate": True,
                "output_scores": True,
                "output_logits": True,
            }
        torch.manual_seed(5)
        return model.generate(
            **inputs(model, self.lengths),
            num_beams=self.num_beams,
            num_return_sequences=self.num_return_sequences,
            do_sample=self.do_sample,
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=[2, 7, 9, 11][: self.eos],
            forced_eos_token_id=2 if self.forced_eos else None,
            **options,
        )


if __name__ == "__main__":
    sys.exit(main(Case))
