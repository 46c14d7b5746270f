"""A tiny random BART of Transformers, for examples that download nothing."""

from __future__ import annotations

from typing import Any

import torch


def random_bart(vocabulary: int, positions: int) -> Any:
    """Makes the model, always with the same weights.

    Args:
        vocabulary: number of tokens; `<s>`, `<pad>`, `</s>` and `<unk>` are the first four.
        positions: the most tokens of a source or a hypothesis.

    Returns:
        A `BartForConditionalGeneration` in float32.
    """
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(1)
    config = BartConfig(
        vocab_size=vocabulary,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=positions,
    )
    model = BartForConditionalGeneration(config)
    with torch.no_grad():
        for layer in model.model.decoder.layers:  # so that hypotheses depend on the text
            attention = layer.encoder_attn
            for projection, factor in (
                (attention.q_proj, 20),
                (attention.k_proj, 20),
                (attention.out_proj, 100),
            ):
                projection.weight.mul_(factor)
    return model
