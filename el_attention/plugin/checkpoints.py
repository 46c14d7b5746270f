"""Lets torch's safe loader read fairseq checkpoints, and nothing else."""

from __future__ import annotations

import argparse
import collections
import typing

import numpy
import torch
from fairseq.logging import meters
from omegaconf import DictConfig, ListConfig, base, nodes

# A class under its own name, or under another that pickles know it by.
Allowed = typing.Any | tuple[typing.Any, str]


def allow_fairseq_checkpoints() -> None:
    """Allows what fairseq checkpoints of Transformers hold beside tensors: options and metrics.

    `torch.load` with `weights_only=True`, its default since torch 2.6, refuses every other class
    with an `UnpicklingError` that names it.
    """
    torch.serialization.add_safe_globals([*configuration_classes(), *metric_classes()])


def configuration_classes() -> list[Allowed]:
    """Returns plain and omegaconf containers of options, without behaviour."""
    containers = [argparse.Namespace, DictConfig, ListConfig, nodes.AnyNode]
    # What the omegaconf containers are made of.
    parts = [
        base.ContainerMetadata,
        base.Metadata,
        collections.defaultdict,
        dict,
        list,
        int,
        typing.Any,
    ]
    return [*containers, *parts]


def metric_classes() -> list[Allowed]:
    """Returns what checkpoints keep of the metrics of their training.

    `--eval-bleu` leaves n-gram counts in numpy arrays; fairseq up to 0.8 saved its meters whole.
    """
    rebuild = numpy.empty(0).__reduce__()[0]
    return [
        # numpy 2 moved the function; checkpoints name it as the numpy that wrote them did.
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
        numpy.ndarray,
        numpy.dtype,
        type(numpy.dtype("int64")),
        type(numpy.dtype("float64")),
        (meters.AverageMeter, "fairseq.meters.AverageMeter"),
        (meters.StopwatchMeter, "fairseq.meters.StopwatchMeter"),
        (meters.TimeMeter, "fairseq.meters.TimeMeter"),
    ]
