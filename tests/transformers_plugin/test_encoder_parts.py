"""Which arguments of a run are cut with its sources."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from el_attention.cost import PART_TOKENS
from el_attention.transformers_plugin.encoder import encoded


def calls(
    encoder: nn.Module | None = None, **arguments: Tensor
) -> list[tuple[int, dict[str, Any]]]:
    """How many sentences each call of an encoder was given, and its other arguments."""
    made: list[tuple[int, dict[str, Any]]] = []

    def encode(inputs: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        made.append((len(inputs), given))
        return {**given, "encoder_outputs": BaseModelOutput(torch.zeros(len(inputs), 1, 2))}

    encoded(encode, encoder or nn.Linear(1, 1).eval(), torch.zeros(3, PART_TOKENS), arguments)
    return made


def test_the_mask_is_cut_and_what_decoders_read_is_not() -> None:
    mask, prompt = torch.arange(3)[:, None], torch.zeros(3, 1)
    made = calls(attention_mask=mask, decoder_input_ids=prompt)
    assert [number for number, _ in made] == [1, 1, 1]
    assert [given["attention_mask"].tolist() for _, given in made] == [[[0]], [[1]], [[2]]]
    assert all(given["decoder_input_ids"] is prompt for _, given in made)


def test_sources_with_a_tensor_of_unknown_axes_are_encoded_at_once() -> None:
    head_mask = torch.ones(3, 4)  # as many layers as sentences
    assert [number for number, _ in calls(head_mask=head_mask)] == [3]


def test_sources_are_encoded_at_once_where_a_part_of_the_encoder_is_in_training() -> None:
    encoder = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).eval()
    assert len(calls(encoder)) == 3
    encoder[1].train()
    assert len(calls(encoder)) == 1
