"""Options that fairseq evaluates as Python code, of which only literals are let through."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

# Longer texts could exhaust the parser.
MAX_LENGTH = 10_000
MAX_ITEMS = 1000


class Kind(NamedTuple):
    """What an evaluated option may be: a description, and a test of its value."""

    name: str
    accepts: Callable[[Any], bool]


def _is_sequence_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(map(accepts, value))


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_flag(value: Any) -> bool:
    return value is None or type(value) in (bool, int)


def _is_integers(value: Any) -> bool:
    return _is_integer(value) or _is_sequence_of(_is_integer)(value)


def _is_layers(value: Any) -> bool:
    return _is_integer(value) or _is_sequence_of(_is_integers)(value)


INTEGERS = Kind("integers, such as 4,8", _is_integers)
LAYERS = Kind("a list of tuples of integers", _is_layers)
FLAGS = Kind(
    "True, False or a list of them",
    lambda value: _is_flag(value) or _is_sequence_of(_is_flag)(value),
)
DICTIONARY = Kind("a dictionary", lambda value: isinstance(value, dict))
TEXTS = Kind(
    "a tuple of texts",
    lambda value: (
        value is None or _is_sequence_of(lambda item: item is None or type(item) is str)(value)
    ),
)

# Every option that models, tasks and criteria of fairseq 0.12 give to `eval` when they are built.
EVALUATED: dict[str, Kind] = {
    **dict.fromkeys(("adaptive_softmax_cutoff", "adaptive_input_cutoff"), INTEGERS),
    **dict.fromkeys(
        (
            "pipeline_balance",
            "pipeline_devices",
            "pipeline_encoder_balance",
            "pipeline_encoder_devices",
            "pipeline_decoder_balance",
            "pipeline_decoder_devices",
        ),
        INTEGERS,
    ),
    "character_filters": LAYERS,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("conv_feature_layers", "conv_aggregator_layers"), LAYERS),
    **dict.fromkeys(("encoder_attention", "decoder_attention", "self_attention"), FLAGS),
    **dict.fromkeys(("project_input", "gated_attention", "downsample", "pretrained"), FLAGS),
    **dict.fromkeys(("left_pad_source", "left_pad_target"), FLAGS),
    "xformers_att_config": DICTIONARY,
    "encoder_xformers_att_config": DICTIONARY,
    "decoder_xformers_att_config": DICTIONARY,
    "wer_args": TEXTS,
}


def require_literals(configuration: Any) -> None:
    """Checks the options that fairseq evaluates, in a configuration and all that is in it.

    Args:
        configuration: a `Namespace`, a `DictConfig` or what else holds options.

    Raises:
        ValueError: if one of them is a text but no literal of its kind, or no text and no value
            that text could stand for; the message names option and value.
    """
    seen: dict[int, Any] = {}  # keeps what it has seen, so that no number is given twice
    waiting = [configuration]
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen[id(holder)] = holder
        for name, value in _options(holder):
            if isinstance(name, str) and name in EVALUATED:
                _require(name, value, EVALUATED[name])
            if not isinstance(value, (str, bytes, bool, int, float)):
                waiting.append(value)


def forget_paths(configuration: Any) -> None:
    """Clears the paths of embeddings in a model's configuration, which are for its training."""
    for name in ("encoder_embed_path", "decoder_embed_path"):
        if getattr(configuration, name, None):
            setattr(configuration, name, None)


def _options(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Yields names and values in any object that may hold options."""
    if isinstance(holder, (DictConfig, ListConfig)):
        yield from _options_of_config(holder)
        return
    if isinstance(holder, dict):
        yield from holder.items()
    elif isinstance(holder, (list, tuple, set, frozenset)):
        yield from ((None, value) for value in holder)
    # Whatever has attributes can stand in for a Namespace.
    if not callable(holder) and not isinstance(holder, ModuleType):
        yield from getattr(holder, "__dict__", {}).items()


def _options_of_config(holder: Any) -> Iterator[tuple[Any, Any]]:
    if holder._is_none() or holder._is_missing():
        return
    for name in holder if isinstance(holder, DictConfig) else range(len(holder)):
        node = holder._get_node(name)
        if name in EVALUATED and node._is_interpolation():
            yield name, node  # its text may change when fairseq merges configurations
        elif not node._is_missing():
            try:
                value = holder[name]
            except OmegaConfBaseException:
                continue  # what cannot be read holds nothing
            yield name, value


def _require(name: str, value: Any, kind: Kind) -> None:
    if isinstance(value, str):
        try:
            accepted = kind.accepts(_value_of(value))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            accepted = False
    else:
        # `eval` takes bytes and other buffers, too.
        plain = (bool, int, float, list, tuple, dict, ListConfig, DictConfig, argparse.Namespace)
        accepted = value is None or isinstance(value, plain)
    if not accepted:
        raise ValueError(
            f"option {name}: fairseq evaluates it, so it has to be a literal, {kind.name}; "
            f"got {str(value)[:200]!r}"
        )


def _value_of(text: str) -> Any:
    if len(text) > MAX_LENGTH:
        raise ValueError("too long")
    return _literal(ast.parse(text.lstrip(" \t"), mode="eval").body)


def _literal(node: ast.expr) -> Any:
    """Evaluates literals, and the sums and repetitions of lists that layers are written as."""
    if not isinstance(node, ast.BinOp):
        return ast.literal_eval(node)
    left, right = _literal(node.left), _literal(node.right)
    if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
        return left + right
    if isinstance(node.op, ast.Mult) and isinstance(left, list) and type(right) is int:
        if len(left) * right > MAX_ITEMS:
            raise ValueError("too many")
        return left * right
    raise ValueError("expected a literal")
