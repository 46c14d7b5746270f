"""Lets torch's safe loader read fairseq checkpoints, and nothing else."""

from __future__ import annotations

import argparse
import collections
import typing

import torch
from omegaconf import DictConfig, ListConfig, base, nodes


def allow_fairseq_checkpoints() -> None:
    """Allows the configuration classes that fairseq checkpoints hold.

    `torch.load` with `weights_only=True`, its default since torch 2.6, refuses every other class
    with an `UnpicklingError` that names it.
    """
    torch.serialization.add_safe_globals(configuration_classes())


def configuration_classes() -> list[typing.Any]:
    """Returns the classes: plain and omegaconf containers of options, without behaviour."""
    containers = [argparse.Namespace, DictConfig, ListConfig, collections.defaultdict, dict, list]
    metadata = [base.ContainerMetadata, base.Metadata, typing.Any]
    values = [
        nodes.AnyNode,
        nodes.BooleanNode,
        nodes.EnumNode,
        nodes.FloatNode,
        nodes.IntegerNode,
        nodes.StringNode,
    ]
    return [*containers, *metadata, *values]
