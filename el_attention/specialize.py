"""Objects of a framework become objects of our subclasses of their own class."""

from __future__ import annotations

import copy
import logging
from functools import cache
from typing import Any, TypeVar, cast

logger = logging.getLogger(__name__)

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
        mixins, base = [self._mixin], self._base
        while issubclass(base, Specialized):
            mixins.append(base._mixin)
            base = base._base
        return _blank, (base, *reversed(mixins)), self.__dict__

    def __prepare_scriptable__(self) -> Any:
        """Returns what `torch.jit.script` compiles: a copy that is stock again.

        Parameters and buffers are shared, as torch shares them with what it compiles.  This object
        stays as it is, but torch puts the copy into the module that holds it, if that is compiled.
        """
        logger.info(
            f"torch.jit.script: compiles a {self._base.__name__} without shared states; a module "
            "that is compiled and holds it has to be converted again"
        )
        module: Any = self
        tensors = [*module.parameters(), *module.buffers()]
        twin: Any = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
        for part in twin.modules():
            while isinstance(part, Specialized):
                part.restore()
        return twin

    def restore(self) -> None:
        """Makes this object one of its class before, without what mixins added."""
        for name in [name for name in vars(self) if name.startswith("el_")]:
            delattr(self, name)
        self.__class__ = self._base


class SameName(Specialized):
    """A mixin whose classes keep the names of their bases, by which users know an object."""

    @classmethod
    def _members(cls, base: type) -> dict[str, Any]:
        return {"__module__": base.__module__, "__qualname__": base.__qualname__}


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


def _blank(cls: type, *mixins: type) -> object:
    for mixin in mixins:
        cls = specialized_class(mixin, cls)
    return cast(object, cls.__new__(cls))  # type: ignore[call-overload]
