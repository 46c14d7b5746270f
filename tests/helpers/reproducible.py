"""Randomised cases that a printed command line runs again."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, note, settings

C = TypeVar("C", bound="Reproducible")


@dataclasses.dataclass(frozen=True)
class Reproducible:
    """A case whose attributes are plain JSON, lists as tuples."""

    @classmethod
    def from_json(cls: type[C], text: str) -> C:
        """Reads what `command` quotes; attributes that are left out keep their defaults.

        Raises:
            TypeError: if there is an unknown attribute.
        """
        values: dict[str, Any] = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    @property
    def command(self) -> str:
        """The command line that runs this case again, from the root of the checkout."""
        script = Path(sys.modules[type(self).__module__].__file__ or "").name
        text = json.dumps(dataclasses.asdict(self))
        return f"PYTHONPATH=. python tests/helpers/{script} {shlex.quote(text)}"

    def check(self) -> None:
        """Asserts what the case is about."""
        raise NotImplementedError


def check(case: Reproducible) -> None:
    """Checks a case that hypothesis has drawn, and has the command printed where it fails."""
    note(f"reproduce with: {case.command}")
    case.check()


def few(examples: int) -> settings:
    """The settings of a fast test: always the same cases."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


def many(examples: int) -> settings:
    """The settings of a slow test: other cases every time."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[HealthCheck.too_slow],
    )


def main(kind: type[Reproducible]) -> int:
    """Runs the case given on the command line: exits with 1, and the reason, if it fails."""
    try:
        kind.from_json(sys.argv[1]).check()
    except AssertionError as error:
        print(f"different: {error}")
        return 1
    print("the same")
    return 0
