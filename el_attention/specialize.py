"""Objects of a framework become objects of our subclasses of their own class."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Specialized:
    """Base of all mixins; lets instances of the classes made below be pickled."""

    _mixin: type[Specialized]
    _base: type

    @classmethod
    def _members(cls, base: type) -> dict[str, Any]:
        """Returns what the subclass of this mixin and of `base` has of its own."""
        return {"__module__": __name__, "__qualname__": f"EL{base.__name__}"}

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (self._mixin, self._base), self.__dict__

    def __prepare_scriptable__(self) -> Any:
        """Returns what `torch.jit.script` compiles: a copy that is stock again."""
        twin: Any = copy.deepcopy(self)
        for module in twin.modules():
            if isinstance(module, Specialized):
                module.restore()
        return twin

    def restore(self) -> None:
        """Makes this object one of its original class again, without what a mixin added."""
        for name in [name for name in vars(self) if name.startswith("el_")]:
            delattr(self, name)
        self.__class__ = self._base


@cache
def specialized_class(mixin: type, base: type) -> type:
    """Returns the subclass of `mixin` and `base`, always the same one."""
    members = cast(type[Specialized], mixin)._members(base)
    members |= {"__doc__": mixin.__doc__, "_mixin": mixin, "_base": base}
    name = members["__qualname__"].rpartition(".")[2]
    return type(name, (mixin, base), members)


def specialize(instance: T, mixin: type) -> T:
    """Gives `instance` the methods of `mixin`, before those of its own class.

    Parameters, buffers, hooks, names and identity stay as they are, and so does the class of every
    other object.  An instance that has the mixin already is left alone.

    Args:
        instance: any object with a `__dict__`.
        mixin: a subclass of `Specialized`.

    Returns:
        The same object.
    """
    if not isinstance(instance, mixin):
        instance.__class__ = cast(Any, specialized_class(mixin, cast(type, type(instance))))
    return instance


def _blank(mixin: type, base: type) -> object:
    cls = specialized_class(mixin, base)
    return cast(object, cls.__new__(cls))  # type: ignore[call-overload]
