"""One randomised case of a decoder that reads its encoder's output, in JSON.

`python tests/helpers/random_reading.py '<json>'` runs a case again.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

import el_attention
from families import SYMBOLS, model_of
from reproducible import Reproducible, main
from tiny import Hypotheses, assert_same, batch, generator_of, prompts

# The parts of an encoder output that fairseq reorders, and the axis of the sentences.
PARTS = {
    "encoder_out": 1,
    "encoder_padding_mask": 0,
    "encoder_embedding": 0,
    "encoder_states": 1,
    "src_tokens": 0,
    "src_lengths": 0,
    "topic": 0,  # of the user's own: fairseq drops it
}
# How a decoder gets at the parts.
ACCESSES: dict[str, Callable[[Any, str], Any]] = {
    "index": lambda output, name: output[name] if name in {*output} else [],
    "get": lambda output, name: output.get(name, []),
    "items": lambda output, name: [x for key, part in output.items() if key == name for x in part],
    "copy": lambda output, name: dict(output).get(name, []),
    "method": lambda output, name: output.copy().get(name, []),
    "merge": lambda output, name: ({"topic": []} | output)[name],
    "dict": lambda output, name: output.get(name, []) if isinstance(output, dict) else [],
}
# Where it reads them.
PLACES = (
    "forward",
    "extract_features",
    "probabilities",
    "layer",
    "another source in forward",
    "another source in extract_features",
    "another source put in place",
    "a source overwritten in forward",
    "a source overwritten in a layer",
    "another mask",
    "another source in a layer",
)


class TellingEncoder(TransformerEncoderBase):
    """Fills every part of its output."""

    def forward(self, src_tokens: Tensor, src_lengths: Any = None, *_: Any) -> Any:
        output = super().forward(src_tokens, src_lengths, True)
        return {
            **output,
            "src_tokens": [src_tokens],
            "src_lengths": [src_lengths.unsqueeze(1)],
            "topic": [src_tokens.float().mean(1)],
        }


class Reads:
    """What readers share: a bias of the logits or features, made of parts of an encoder output."""

    reads: ReadingCase

    def bias(self, encoder_out: Any, width: int) -> Tensor:
        total = torch.zeros(1, width)
        for part in self.reads.parts:
            for number, tensor in enumerate(ACCESSES[self.reads.access](encoder_out, part)):
                rows = (
                    tensor.transpose(0, PARTS[part])
                    .double()
                    .reshape(tensor.size(PARTS[part]), -1)
                    .mean(1)
                )
                wave = torch.sin(rows[:, None] * (1 + number) * torch.arange(1, width + 1))
                total = total + 2 * wave.float()
        return total

    def another(self, encoder_out: Any) -> dict[str, Any]:
        """An encoder output with other states."""
        states = encoder_out["encoder_out"][0]
        return {
            **encoder_out,
            "encoder_out": [states + 0.3 * self.bias(encoder_out, states.size(2))],
        }


def overwrite(states: Tensor) -> None:
    """Changes an encoder output, [S, sentences or beams, C], in place, for each sentence otherwise.

    Stock fairseq lets a source that is another for each beam stay with the row.
    """
    states.add_(torch.sin(9 * states.mean((0, 2)))[:, None])


class ReadingForward(Reads, TransformerDecoderBase):
    """Has a forward of its own, which reads after fairseq's, or gives that another source."""

    def forward(self, tokens: Tensor, encoder_out: Any = None, *args: Any, **more: Any) -> Any:
        place = self.reads.place
        if place == "another source in forward":
            encoder_out = self.another(encoder_out)
        if place == "another mask":
            mask = encoder_out["encoder_padding_mask"][0].clone()
            mask[:, mask.size(1) // 2] = True
            encoder_out = {**encoder_out, "encoder_padding_mask": [mask]}
        if place == "another source put in place" and tokens.size(1) == 1:
            encoder_out["encoder_out"] = self.another(encoder_out)["encoder_out"]
        if place == "a source overwritten in forward" and tokens.size(1) == 1:
            overwrite(encoder_out["encoder_out"][0])
        logits, extra = super().forward(tokens, encoder_out, *args, **more)
        if place == "forward":
            logits = logits + self.bias(encoder_out, logits.size(-1)).unsqueeze(1)
        if place == "probabilities":
            extra["encoder_out"] = encoder_out
        return logits, extra

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Any:
        logits, extra = net_output
        if self.reads.place == "probabilities":
            logits = logits + self.bias(extra["encoder_out"], logits.size(-1)).unsqueeze(1)
        return super().get_normalized_probs((logits, extra), log_probs, sample)


class ReadingFeatures(Reads, TransformerDecoderBase):
    """Makes features of its own."""

    def extract_features(
        self, tokens: Tensor, encoder_out: Any = None, *args: Any, **more: Any
    ) -> Any:
        if self.reads.place == "another source in extract_features":
            encoder_out = self.another(encoder_out)
        features, extra = super().extract_features(tokens, encoder_out, *args, **more)
        if self.reads.place == "extract_features":
            features = features + self.bias(encoder_out, features.size(-1)).unsqueeze(1)
        return features, extra


class ReadingLayer(Reads, TransformerDecoderLayerBase):
    """Reads the states and the padding that its decoder gives it, or attends to other states."""

    def forward(
        self, x: Tensor, encoder_out: Any = None, padding: Any = None, *args: Any, **more: Any
    ) -> Any:
        given: dict[str, Any] = dict.fromkeys(PARTS, ())
        given["encoder_out"] = (encoder_out,)
        given["encoder_padding_mask"] = () if padding is None else (padding,)
        bias = self.bias(given, x.size(2))
        if self.reads.place == "a source overwritten in a layer":
            overwrite(encoder_out)
        elif self.reads.place == "another source in a layer":
            encoder_out = encoder_out + 0.3 * bias
        else:
            x = x + bias
        return super().forward(x, encoder_out, padding, *args, **more)


@dataclass(frozen=True)
class ReadingCase(Reproducible):
    """A case.

    Attributes:
        family: the family of the models with an encoder.
        plan: how to attend.
        parts: the parts of the encoder output, which are read.
        access: one of `ACCESSES`.
        place: one of `PLACES`.
        beam: number of beams.
        lengths: the lengths of the sources.
        left_pad: whether sources are padded on the left.
        prefix: length of a prefix of every sentence, or 0.
        options: the options of the search.
        stock_generator: whether only the model is converted.
    """

    family: str = "transformer"
    plan: str = "expanded-query"
    parts: tuple[str, ...] = ("src_tokens",)
    access: str = "index"
    place: str = "forward"
    beam: int = 3
    lengths: tuple[int, ...] = (6, 3)
    left_pad: bool = True
    prefix: int = 0
    sampling: bool = False
    stock_generator: bool = False

    def model(self) -> BaseFairseqModel:
        """A model whose decoder reads."""
        model = copy.deepcopy(model_of(self.family))
        model.encoder.__class__ = TellingEncoder
        reader: Any = model.decoder
        if "layer" in self.place:
            reader = model.decoder.layers[1]
            reader.__class__ = ReadingLayer
        else:
            in_features = "extract_features" in self.place
            reader.__class__ = ReadingFeatures if in_features else ReadingForward
        reader.reads = self
        return model

    def run(self) -> tuple[Hypotheses, Hypotheses]:
        """Generates with stock fairseq and with EL-attention, from one seed."""
        sample = batch(SYMBOLS, self.lengths, left_pad=self.left_pad)
        options = {"beam": self.beam, "max_len_b": 9, "sampling": self.sampling}
        more = {}
        if self.prefix:
            more["prefix_tokens"] = prompts(SYMBOLS, [self.prefix] * len(self.lengths))
        results = []
        for plan in (None, self.plan):
            generator = generator_of([self.model()], SYMBOLS, options)
            if plan is None:
                per_beam(generator.model.models[0])
            elif self.stock_generator:
                el_attention.convert(generator.model.models[0], plan)
            else:
                el_attention.convert(generator, plan)
            torch.manual_seed(0)
            results.append(generator.generate(None, copy.deepcopy(sample), **more))
        return results[0], results[1]

    def check(self) -> None:
        """Asserts that both give the same tokens and scores."""
        assert_same(*self.run())


def per_beam(model: BaseFairseqModel) -> None:
    """Makes stock BART give its layers a source per beam, as it does until it is told a beam."""
    model.encoder.__dict__.pop("reorder_encoder_out", None)
    for layer in model.decoder.layers:
        layer.encoder_attn.beam_size = 1


if __name__ == "__main__":
    sys.exit(main(ReadingCase))
