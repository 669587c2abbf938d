"""Which classes and functions a machine is built from: the place where a guard can be replaced.

The model builds a part that has guards as ``engine.parts.of(Part)(...)`` and calls a guard that is a plain
function as ``engine.parts.of(function)(...)``.  Nothing is replaced in the correct model, and :meth:`Parts.of`
gives back what it was given.  A planted bug (DESIGN section 5), put in before anything is built, makes a
deviant of what is there; so several bugs can be planted at once, and two machines in one process never share one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

P = TypeVar("P")
Deviate = Callable[[Any], Any]
"""Given a class or a function of the model, what is used instead."""


class Parts:
    """What one machine is built from."""

    def __init__(self) -> None:
        self._changes: list[tuple[Any, Deviate]] = []
        self._known: dict[Any, Any] = {}

    def of(self, part: P) -> P:
        """What to build, or to call, where ``part`` is meant."""
        if not self._changes:
            return part
        if part not in self._known:
            self._known[part] = self._deviant(part)
        found: P = self._known[part]
        return found

    def replace(self, part: Any, deviate: Deviate) -> None:
        """From now on ``deviate`` changes what is built for a class and its subclasses, or called for a function."""
        self._changes.append((part, deviate))
        self._known.clear()

    def replace_guard(self, part: type, guard: str, deviation: Any) -> None:
        """One method of a class is another one; a subclass with a method of its own there keeps that.

        TypeError when there is no such method.
        """
        if not hasattr(part, guard):
            raise TypeError(f"{part.__name__} has no guard {guard}")

        def deviate(original: type) -> type:
            if getattr(original, guard) is not getattr(part, guard):
                return original
            return type(original.__name__, (original,), {guard: deviation})

        self.replace(part, deviate)

    def _deviant(self, part: Any) -> Any:
        found = part
        for replaced, deviate in self._changes:
            inherits = isinstance(part, type) and isinstance(replaced, type) and issubclass(part, replaced)
            if part is replaced or inherits:
                found = deviate(found)
        return found
