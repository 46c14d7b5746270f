"""Random walks: a converted model decodes step by step, stock fairseq recomputes every history."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.models import BaseFairseqModel
from fairseq.modules import MultiheadAttention
from torch import Tensor


class TorchAttention(MultiheadAttention):
    """fairseq's attention, computed by torch's own function, whose float64 is float64 throughout.

    fairseq takes that path for self-attention; its own code for encoder-decoder attention rounds
    the softmax to float32.
    """

    def forward(self, *args: Any, static_kv: bool = False, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def exact(model: BaseFairseqModel) -> BaseFairseqModel:
    """Makes every attention of the decoder a `TorchAttention`, in place."""
    for module in model.decoder.modules():
        if type(module) is MultiheadAttention:
            module.__class__ = TorchAttention
    return model


def full_forward(
    model: BaseFairseqModel, sample: dict[str, Any] | None, origin: Tensor, tokens: Tensor
) -> Tensor:
    """The output at the last of `tokens` [rows, T], without incremental decoding."""
    if sample is None:
        return model(tokens)[0][:, -1:]
    sources = {name: tensor[origin] for name, tensor in sample["net_input"].items()}
    return model(**sources, prev_output_tokens=tokens)[0][:, -1:]


def beams_within(sentences: int, beam: int, drop: bool, generator: torch.Generator) -> Tensor:
    """Random parents of every beam of every sentence but, if `drop`, a random one."""
    kept = torch.arange(sentences)
    if drop and sentences > 1:
        kept = kept[kept != int(torch.randint(sentences, (), generator=generator))]
    parents = torch.randint(beam, (len(kept), beam), generator=generator)
    return (kept[:, None] * beam + parents).flatten()


@torch.no_grad()
def assert_walk_agrees(
    stock: BaseFairseqModel,
    converted: BaseFairseqModel,
    sample: dict[str, Any] | None,
    *,
    sentences: int,
    beam: int = 5,
    steps: int = 14,
    mix: bool = False,
    told: bool = True,
    prompt: Tensor | None = None,
    tolerance: float = 1e-12,
    seed: int = 0,
) -> None:
    """Compares the outputs of every step of a walk, relative to the largest output.

    Args:
        stock: the reference; only its full forward pass is used.
        converted: the model under test.
        sample: the sources, or None for a language model.
        sentences: number of sentences.
        beam: beams of each.
        steps: length of the walk; some sentences are dropped on the way.
        mix: whether beams go anywhere, and in any number, instead of staying in their sentence.
        told: whether a language model is told its beam, as our generator does.
        prompt: int64 [sentences, P], right-padded, given to a language model at once.
        tolerance: on the largest difference.
        seed: the seed of tokens and orders.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder = converted.decoder
    state: dict[str, Any] = {}
    origin = torch.arange(sentences).repeat_interleave(beam)
    encoder_out = None
    if sample is not None:
        encoder_out = converted.encoder.forward_torchscript(sample["net_input"])
        encoder_out = converted.encoder.reorder_encoder_out(encoder_out, origin)
    elif told:
        decoder.begin(state, sentences, beam)
    if prompt is not None:
        decoder.take_prompt(state, prompt)
    pad, eos = decoder.dictionary.pad(), decoder.dictionary.eos()
    tokens = torch.full((len(origin), 1), eos)
    if prompt is not None:
        tokens = prompt[origin, :1]

    for step in range(steps):
        got = decoder(tokens, encoder_out=encoder_out, incremental_state=state)[0]
        expected = full_forward(stock, sample, origin, tokens)
        assert got.dtype == expected.dtype and got.shape == expected.shape
        error = float((got - expected).abs().max() / expected.abs().max())
        assert error <= tolerance, f"step {step}: relative difference {error:.2g}"

        if mix:
            rows = int(torch.randint(3, sentences * beam + 1, (), generator=generator))
            order = torch.randint(len(tokens), (rows,), generator=generator)
        else:
            drop = step in (steps // 3, steps // 2)
            order = beams_within(len(tokens) // beam, beam, drop, generator)
        tokens, origin = tokens[order], origin[order]
        decoder.reorder_incremental_state_scripting(state, order)
        if encoder_out is not None:
            encoder_out = converted.encoder.reorder_encoder_out(encoder_out, order)
        words = torch.randint(4, len(decoder.dictionary), (len(tokens), 1), generator=generator)
        if prompt is not None and step + 1 < prompt.size(1):
            forced = prompt[origin, step + 1].unsqueeze(1)
            words = torch.where(forced.eq(pad), words, forced)
        tokens = torch.cat([tokens, words], 1)
