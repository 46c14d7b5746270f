"""The options of fairseq's command lines, composed by hydra once and not for each command.

hydra spends two thirds of the time of a tiny generation: it reads the defaults of all groups and
parses 300 overrides, nearly all of which are the same in every command line.
"""

from __future__ import annotations

import copy
import functools

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental import compose
from omegaconf import DictConfig, OmegaConf


def composed(config: str, overrides: list[str], strict: bool) -> DictConfig:
    """Returns what `hydra.experimental.compose` does, and remembers what it read and parsed.

    hydra chooses groups by overrides without a dot, `task=translation`, and updates what they hold
    by the others, `task.source_lang=en`, in order.
    """
    groups = tuple(o for o in overrides if "." not in o.partition("=")[0])
    options = copy.deepcopy(_groups(config, groups, strict))
    for override in (_parsed(o) for o in overrides if o not in groups):
        OmegaConf.update(options, override.key_or_group, override.value(), merge=True)
    return options


@functools.cache
def _groups(config: str, groups: tuple[str, ...], strict: bool) -> DictConfig:
    return compose(config, overrides=list(groups), strict=strict)


@functools.cache
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)
