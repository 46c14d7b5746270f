"""Many sounds at once: what each gets alone, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import el_attention
from crossed import crossed

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")
if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip("runs are served from Transformers 5.0 on", allow_module_level=True)

from transformers.generation import GenerationMixin  # noqa: E402

from el_attention.robust.random_numbers import seed_of  # noqa: E402
from el_attention.transformers_plugin.generate_many import generate_many  # noqa: E402
from speech import hearing, sounds  # noqa: E402

LENGTHS = (3000, 9000, 3000, 16000, 5000, 3000)
# What is asked of generate, and the sizes of the batches.
OPTIONS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "greedy": ("speech_to_text", {"max_new_tokens": 9}, [1, 1, 1, 3]),
    "beams": (
        "speech_to_text",
        {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9},
        [1, 1, 1, 3],
    ),
    "whisper": (
        "whisper",
        {"language": "en", "max_new_tokens": 9, "no_repeat_ngram_size": 1},
        [6],
    ),
    "whisper, beams": (
        "whisper",
        {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 1},
        [6],
    ),
    "whisper, times": ("whisper", {"language": "fr", "return_timestamps": True}, [6]),
    "whisper, drawn": ("whisper", {"language": "en", "temperature": 0.7, "top_k": 9}, [1] * 6),
    "whisper, threshold": (
        "whisper",
        {"temperature": (0.0, 0.5), "compression_ratio_threshold": 0.5, "top_k": 9},
        [1] * 6,
    ),
}


def alone(model: Any, processor: Any, sound: np.ndarray, place: int, **options: Any) -> Any:
    """The tokens that `generate` returns for one sound, without what pads its hypotheses."""
    features = processor.feature_extractor(sound, sampling_rate=16000, return_tensors="pt")
    features["input_features"] = features["input_features"].to(model.dtype)
    torch.manual_seed(seed_of(0, place))
    found = []
    for row in model.generate(**features, **options).tolist():
        while row and row[-1] == model.generation_config.pad_token_id:
            row.pop()
        found.append(tuple(row))
    return found


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """The sizes of the batches that are generated in the test, each once."""
    seen: list[int] = []
    monkeypatch.setattr(GenerationMixin, "generate", GenerationMixin.generate)
    for kind in (transformers.WhisperForConditionalGeneration, GenerationMixin):
        generate = kind.generate

        def watched(self: Any, *given: Any, _generate: Any = generate, **options: Any) -> Any:
            if "input_features" in options:
                seen.append(len(options["input_features"]))
            return _generate(self, *given, **options)

        monkeypatch.setattr(kind, "generate", watched)
    return seen


@pytest.mark.parametrize(("converted", "case"), crossed([True, False], OPTIONS))
def test_every_sound_gets_what_it_gets_alone(case, converted, batches) -> None:
    name, options, sizes = OPTIONS[case]
    model, processor = hearing(name)
    noises = sounds(*LENGTHS)
    expected = [alone(model, processor, *x[::-1], **options) for x in enumerate(noises)]
    if converted:
        el_attention.convert(model)
    batches.clear()
    found = generate_many(model, processor, noises, progress=False, **options)
    assert sorted(batches) == sizes
    for result, tokens in zip(found, expected, strict=True):
        assert list(result.tokens) == tokens
        assert result.text == processor.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert len({result.tokens for result in found}) > 2


def test_bad_sounds_get_a_reason_and_do_not_end_the_run(tmp_path) -> None:
    model, processor = hearing("whisper")
    (good,) = sounds(9000)
    cases: list[tuple[Any, str]] = [
        (good, ""),
        ({"array": good.tolist(), "sampling_rate": 16000}, ""),
        ({"array": good, "sampling_rate": 8000}, "it has 8000 samples a second, expected 16000"),
        ({"path": "a.wav"}, "expected a sound with array and sampling_rate, got ['path']"),
        ("a.wav", "expected a sound, got str"),
        (None, "expected a sound, got NoneType"),
        (np.stack([good, good]), "expected samples [n] between -1 and 1, got float32 [2, 9000]"),
        ((good * 1000).astype(np.int16), "expected samples [n] between -1 and 1, got int16 [9000]"),
        (good[:300], "it is too short: 300 samples, a frame has 400"),
        (good + np.inf, "it has samples that are infinite or no numbers"),
        (np.tile(good, 2), "it is too long: 1.1 s, the model hears 1.0 s at once"),
    ]
    options = {"journal": tmp_path / "journal", "language": "en", "progress": False}
    found = generate_many(model, processor, [sound for sound, _ in cases], **options)
    for result, (_, reason) in zip(found, cases, strict=True):
        assert (result.reason or "") == reason and (result.text is None) == bool(reason)
    assert found[0] == found[1]
    found = generate_many(model, processor, [good, cases[-1][0]], truncation=True, **options)
    assert found[0].reason is found[1].reason is None


def test_what_cannot_hear_is_refused() -> None:
    model, processor = hearing("whisper")
    with pytest.raises(TypeError, match="expected a processor with a feature_extractor, got Tok"):
        generate_many(model, processor.tokenizer, [])
    with pytest.raises(ValueError, match="expected no output_scores for Whisper"):
        generate_many(model, processor, [], output_scores=True)
    with pytest.raises(ValueError, match="input_features is made of the texts"):
        generate_many(model, processor, [], input_features=3)
