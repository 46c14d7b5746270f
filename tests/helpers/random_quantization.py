"""One randomised case of dynamic quantization around the conversion, in JSON.

`python tests/helpers/random_quantization.py '<json>'` runs a case again.
"""

from __future__ import annotations

import copy
import logging
import sys
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from fairseq.models import BaseFairseqModel
from torch import nn
from torch.ao.nn.quantized import dynamic
from torch.ao.quantization import default_dynamic_qconfig, float16_dynamic_qconfig

import el_attention
from families import SYMBOLS, arguments_of, model_of
from reproducible import Reproducible, main
from tiny import assert_same, batch, generator_of

# What is quantized, by the names that `quantize_dynamic` takes; the class stands for all of them.
EVERYTHING = "every Linear"
PARTS = (
    "layers.0.self_attn.k_proj",
    "layers.0.self_attn.v_proj",
    "layers.1.self_attn.q_proj",
    "layers.1.self_attn.out_proj",
    "layers.1.self_attn",
    "layers.2.fc1",
    "layers.0.fc2",
    "layers.1.encoder_attn.q_proj",
    "layers.1.encoder_attn.v_proj",
    "layers.2.encoder_attn",
    "layers.2",
    "output_projection",
    EVERYTHING,
)
ORDERS = (
    "quantize, convert",
    "convert, quantize",
    "convert, quantize, convert",
    "generate, quantize",
)


@dataclass(frozen=True)
class QuantizationCase(Reproducible):
    """A case.

    Attributes:
        family: a key of `families.FAMILIES`.
        plan: how to attend.
        order: one of `ORDERS`.
        parts: what is quantized before the conversion or, in other orders, after it.
        more: what is quantized after everything else.
        half: whether to float16, in place of int8.
        inplace: whether the decoder itself is quantized, or its copy.
        beam: number of beams.
        lengths: the lengths of the sources.
    """

    family: str = "transformer"
    plan: str = "expanded-query"
    order: str = ORDERS[0]
    parts: tuple[str, ...] = (EVERYTHING,)
    more: tuple[str, ...] = ()
    half: bool = False
    inplace: bool = False
    beam: int = 3
    lengths: tuple[int, ...] = (6, 3)

    def quantize(self, model: BaseFairseqModel, parts: tuple[str, ...]) -> BaseFairseqModel:
        """Quantizes parts of the decoder; fairseq's encoders cannot be quantized."""
        qconfig = float16_dynamic_qconfig if self.half else default_dynamic_qconfig
        names = [part for part in parts if part != EVERYTHING]
        chosen: dict[Any, Any] = {name: qconfig for name in names if _has(model.decoder, name)}
        if EVERYTHING in parts:
            chosen[nn.Linear] = qconfig
        if chosen:
            model.decoder = torch.ao.quantization.quantize_dynamic(
                model.decoder,
                chosen,
                torch.float16 if self.half else torch.qint8,
                inplace=self.inplace,
            )
        return model

    def ours(self) -> BaseFairseqModel:
        """A model that was converted and quantized in the order of the case."""
        model = copy.deepcopy(model_of(self.family))
        if self.order == "quantize, convert":
            el_attention.convert(self.quantize(model, self.parts), self.plan)
        else:
            el_attention.convert(model, self.plan)
            if self.order == "generate, quantize":
                self.generate(model)
            self.quantize(model, self.parts)
            if self.order == "convert, quantize, convert":
                el_attention.convert(model, self.plan)
        return self.quantize(model, self.more)

    def generate(self, model: BaseFairseqModel) -> Any:
        """Generates with a copy of a model."""
        generator = generator_of([model], SYMBOLS, {"beam": self.beam, "max_len_b": 9})
        sample = batch(SYMBOLS, self.lengths)
        arguments = {
            name: rows[: len(self.lengths)] for name, rows in arguments_of(self.family).items()
        }
        return generator.generate(None, sample, **arguments)

    def check(self) -> None:
        """Asserts stock's results, and that every quantized module is used."""
        stock = self.quantize(copy.deepcopy(model_of(self.family)), self.parts)
        stock = self.quantize(stock, self.more)
        ours = self.ours()
        assert quantized(ours) == quantized(stock)
        used: set[int] = set()
        forward = dynamic.Linear.forward

        def watched(module: dynamic.Linear, x: Any) -> Any:
            used.add(id(module))
            return forward(module, x)

        expected = self.generate(stock)
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("el_attention")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            with mock.patch.object(dynamic.Linear, "forward", watched):
                got = self.generate(ours)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        # Quantization rounds to steps, which turns a difference in the last bit into a larger one.
        assert_same(expected, got, tolerance=1e-4)
        count = len(quantized(stock))
        assert len(used) == count, f"{len(used)} of {count} quantized modules were used: {lines}"


def quantized(model: BaseFairseqModel) -> list[str]:
    """The names of the quantized modules of a decoder."""
    return [name for name, m in model.decoder.named_modules() if isinstance(m, dynamic.Linear)]


def _has(module: nn.Module, name: str) -> bool:
    return any(name == other for other, _ in module.named_modules())


if __name__ == "__main__":
    sys.exit(main(QuantizationCase))
