"""What stands before a generator and is taken for one."""

from __future__ import annotations

from typing import Any


class GeneratorWrapper:
    """Has every attribute of the generator that it stands before; can be copied and pickled."""

    def __init__(self, generator: Any) -> None:
        """Stands before `generator`."""
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        # A copy has no generator yet while it is asked how to restore its state.
        if name == "_generator" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._generator, name)


def innermost(generator: Any) -> Any:
    """Returns the generator behind everything that stands before it."""
    while isinstance(generator, GeneratorWrapper):
        generator = generator._generator
    return generator
