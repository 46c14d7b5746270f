"""Whisper: a `generate` of its own around the ordinary one, of which every step is served."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

import el_attention
from crossed import crossed

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")

from el_attention.transformers_plugin.version_4 import IS_4  # noqa: E402
from speech import speech_model  # noqa: E402
from transformers_models import PLANS, assert_served, inputs  # noqa: E402

FRAMES = 40  # of a segment
BOTH = [*zip(PLANS, (torch.float32, torch.float64), strict=True)]


def sound(frames: int, dtype: torch.dtype = torch.float64) -> Tensor:
    size = (3, 5, frames)
    return torch.randn(size, generator=torch.manual_seed(3), dtype=torch.float64).to(dtype)


# What is asked of generate, by the frames of the longest sound.
SHORT: dict[str, dict[str, Any]] = {
    "a language": {"language": "en"},
    "a language each": {"language": ["fr", "en", "fr"], "task": "translate"},
    "language is detected": {},
    "beams": {"language": "fr", "num_beams": 3},
    "several of the beams": {"language": "fr", "num_beams": 3, "num_return_sequences": 2},
    "times": {"language": "en", "return_timestamps": True, "num_beams": 2},
    "sampling": {"language": "en", "do_sample": True, "temperature": 0.7, "top_k": 9},
    "a prompt": {"prompt_ids": torch.tensor([44, 8, 9, 10])},
}
LONG: dict[str, dict[str, Any]] = {
    "times": {},
    "beams": {"num_beams": 3, "return_segments": True},
    "what was said": {"condition_on_prev_tokens": True, "num_beams": 2},
    "a prompt": {
        "prompt_ids": torch.tensor([44, 8, 9, 10]),
        "prompt_condition_type": "all-segments",
        "condition_on_prev_tokens": True,
        "max_new_tokens": 8,
    },
    "temperature rises": {
        "temperature": (0.0, 0.4, 0.8),
        "logprob_threshold": -1.0,
        "compression_ratio_threshold": 1.1,
        "no_speech_threshold": 0.01,
        "num_beams": 2,
    },
}


def transcribed(model: Any, features: Tensor, options: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(11)
    return model.generate(features, **copy.deepcopy(options), **more)


def assert_equal(expected: Any, found: Any) -> None:
    """Compares nested results; numbers to 1e-5, the rest exactly."""
    if isinstance(expected, Tensor) and expected.is_floating_point():
        torch.testing.assert_close(expected, found, rtol=0, atol=1e-5)
    elif isinstance(expected, Tensor):
        assert torch.equal(expected, found)
    elif isinstance(expected, transformers.EncoderDecoderCache):
        for name in ("self_attention_cache", "cross_attention_cache"):
            pairs = zip(getattr(expected, name).layers, getattr(found, name).layers, strict=True)
            for one, other in pairs:
                assert_equal(one.keys, other.keys)
                assert_equal(one.values, other.values)
    elif isinstance(expected, dict):
        assert expected.keys() == found.keys()
        for name in expected:
            assert_equal(expected[name], found[name])
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(expected, found, strict=True):
            assert_equal(one, other)
    else:
        assert expected == found


@pytest.mark.parametrize(("plan", "dtype", "case"), crossed(BOTH, SHORT))
def test_short_sounds_are_transcribed_as_before(case, plan, dtype) -> None:
    model, features = speech_model(dtype), sound(FRAMES, dtype)
    expected = transcribed(model, features, SHORT[case])
    el_attention.convert(model, plan)
    assert torch.equal(expected, transcribed(model, features, SHORT[case]))
    assert_served(model)


@pytest.mark.parametrize(("plan", "dtype", "case"), crossed(BOTH, LONG))
def test_long_sounds_are_transcribed_as_before(case, plan, dtype) -> None:
    model, features = speech_model(dtype), sound(2 * FRAMES + 7, dtype)
    mask = (torch.arange(features.size(2)) < torch.tensor([87, 50, 80])[:, None]).long()
    options = {"language": "en", "return_timestamps": True, **LONG[case]}
    expected = transcribed(model, features, options, attention_mask=mask)
    el_attention.convert(model, plan)
    assert_equal(expected, transcribed(model, features, options, attention_mask=mask))
    if not IS_4 or "logprob_threshold" not in options:
        assert_served(model)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}])
@pytest.mark.parametrize("plan", PLANS)
def test_the_cache_of_the_result_holds_keys_and_values(plan, options) -> None:
    model, features = speech_model(), sound(FRAMES)
    more = {"language": "en", "return_dict_in_generate": True, "output_scores": True}
    expected = transcribed(model, features, options, **more)
    el_attention.convert(model, plan)
    assert_equal(dict(expected), dict(transcribed(model, features, options, **more)))
    if not IS_4:
        assert_served(model)


def test_times_of_tokens_need_attention_weights(caplog) -> None:
    model, features = speech_model(), sound(FRAMES)
    options = {"language": "en", "return_token_timestamps": True}
    expected = transcribed(copy.deepcopy(model), features, options)
    el_attention.convert(model)
    with caplog.at_level(logging.INFO, logger="el_attention"):
        assert_equal(dict(expected), dict(transcribed(model, features, options)))
    assert "because output_attentions was asked for" in caplog.text


def test_the_encoder_output_is_kept_once_per_sound(monkeypatch) -> None:
    from el_attention.decoder import Decoding

    model = el_attention.convert(speech_model())
    kept: list[Any] = []
    step = Decoding.step

    def watched(self: Decoding, *args: Any, **kwargs: Any) -> Any:
        kept.append(self.states.source)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Decoding, "step", watched)
    model.generate(**inputs(model), language="en", num_beams=4)
    # Sounds that are not done after their first segment go on by themselves.
    assert len(kept) > 8 and all(source.states.size(1) <= 3 for source in kept)
    assert kept[0].states.shape == (20, 3, 12)
