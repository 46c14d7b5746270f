"""Generation that survives being killed: finished sentences are kept in a journal."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from el_attention.plugin.parts import PER_SENTENCE, Generator, Results, generate_part, sentences_of
from el_attention.robust.journal import Journal

logger = logging.getLogger(__name__)


class RecordingGenerator:
    """A generator that records the hypotheses of every sentence, and returns recorded ones.

    Where hypotheses are drawn at random, a recorded batch leaves the random numbers as it did
    then, so that the run goes on as if it had not been interrupted.
    """

    def __init__(self, generator: Generator, journal: Journal) -> None:
        """Stands before `generator`."""
        self._generator = generator
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(self, models: Any, sample: dict[str, Any], **arguments: Any) -> Results:
        """Generates; see fairseq's `SequenceGenerator.generate` for the arguments.

        Raises:
            OSError: if the journal cannot be written.
        """
        device = sample["net_input"]["src_tokens"].device
        keys = sentence_keys(self._generator, sample, arguments)
        results: Results = [[] for _ in keys]
        missing = []
        for sentence, key in enumerate(keys):
            entry = self._journal.take(key)
            if entry is None:
                missing.append(sentence)
                continue
            results[sentence] = from_json(entry.value, device)
            if entry.moment is not None:
                _set_random_state(device, entry.moment)
        if missing:
            before = _random_state(device)
            new = generate_part(self._generator, models, sample, arguments, missing)
            after = _random_state(device)
            for sentence, hypotheses in zip(missing, new, strict=True):
                results[sentence] = hypotheses
            self._journal.add(
                [(keys[sentence], to_json(results[sentence])) for sentence in missing],
                None if after == before else after,
            )
        return results


def sentence_keys(
    generator: Any, sample: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[str]:
    """Digests everything in a batch that the hypotheses of each sentence depend on.

    Args:
        generator: of sequences or, if it has no beam, of scores.
        sample: the batch.
        arguments: of `generate`.

    Returns:
        A key for each sentence.
    """
    number, net_input = sentences_of(sample), sample["net_input"]
    inputs = {"src_tokens": net_input["src_tokens"], **arguments}
    batch: dict[str, Any] = {}
    padded = True
    if not hasattr(generator, "beam_size"):
        inputs |= {**net_input, "target": sample["target"]}
    elif generator.match_source_len:
        batch["longest"] = int(net_input["src_lengths"].max())
    else:
        padded = generator.max_len_a != 0  # the limit of lengths counts padding
    rows: list[dict[str, Any]] = [{} for _ in range(number)]
    for name, value in inputs.items():
        if name not in PER_SENTENCE or not (isinstance(value, Tensor) and len(value) == number):
            batch[name] = value.tolist() if isinstance(value, Tensor) else value
            continue
        for row, line in zip(rows, value.cpu(), strict=True):
            trim = name == "src_tokens" and not padded
            row[name] = (line[line.ne(generator.pad)] if trim else line).tolist()
    return [_digest(json.dumps([batch, row], default=str).encode()) for row in rows]


def run_settings(
    task: type, models: Iterable[nn.Module], options: Any, extra: Mapping[str, Any]
) -> dict[str, str]:
    """Describes what the hypotheses of all sentences depend on.

    Args:
        task: class of fairseq's task.
        models: the ensemble.
        options: fairseq's generation configuration.
        extra: further arguments of the generator, a language model among them.

    Returns:
        Text by name, for a journal.
    """
    values: Any = options
    values = OmegaConf.to_container(values) if isinstance(values, DictConfig) else vars(values)
    settings = {"task": task.__name__, "weights": weights_digest(models)}
    for name, value in {**values, **extra}.items():
        is_model = isinstance(value, nn.Module)
        settings[str(name)] = weights_digest([value]) if is_model else _text(value)
    return settings


def weights_digest(models: Iterable[nn.Module]) -> str:
    """A digest of all parameters and buffers: names, shapes, dtypes and values.

    fairseq's `_float_tensor` buffers are left out: they stand for a dtype and a device, and their
    values are never set.
    """
    digest = hashlib.blake2b(digest_size=16)
    for model in models:
        for name, tensor in model.state_dict().items():
            if isinstance(tensor, Tensor) and not name.endswith("_float_tensor"):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
                values = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_json(value: Any) -> Any:
    """Writes hypotheses as JSON; tensors keep dtype, shape and exact values."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(value.shape), "values": value.flatten().tolist()}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any, device: torch.device) -> Any:
    """Reads what `to_json` wrote; tensors are made on `device`."""
    if isinstance(value, Mapping):
        if value.keys() == {"dtype", "shape", "values"}:
            dtype = getattr(torch, value["dtype"])
            return torch.tensor(value["values"], dtype=dtype, device=device).view(value["shape"])
        return {key: from_json(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item, device) for item in value]
    return value


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _text(value: Any) -> str:
    # Text of a function holds its address, which is another in every run.
    return str(getattr(value, "__qualname__", value))


def _random_state(device: torch.device) -> dict[str, str]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: base64.b64encode(s.numpy().tobytes()).decode() for name, s in states.items()}


def _set_random_state(device: torch.device, states: Mapping[str, str]) -> None:
    for name, text in states.items():
        state = torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(state)
        elif device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
