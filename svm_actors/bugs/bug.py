"""What a planted bug is, and how one is put into a world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from svm_actors.engine.parts import Parts

Plant = Callable[[Parts], None]
"""Changes what a machine is built from."""


@attrs.frozen
class Bug:
    """One deviation."""

    id: str
    """Digest id."""
    title: str
    """What is wrong, in a few words."""
    removes: str
    """The guard that is gone: ``Class.method``, or ``module.function``."""
    races: tuple[str, ...]
    """Ids of the races whose window it opens, and of the rules it shows the need of."""
    oracles: tuple[str, ...]
    """Any of these, as ``oracle`` or ``oracle/rule``, is how it is noticed."""
    story: str
    """The built-in target in which it is soon noticed."""
    plant: Plant = attrs.field(repr=False)
    """Change what a machine is built from, before anything of it is built."""


def replace_guard(part: type, guard: str, deviation: Any) -> Plant:
    """A bug that is one method of one class, which the model builds through :meth:`Parts.of`."""
    return lambda parts: parts.replace_guard(part, guard, deviation)


def replace_function(function: Callable[..., Any], deviation: Callable[..., Any]) -> Plant:
    """A bug that is another function, where the model calls it through :meth:`Parts.of`."""
    return replace_part(function, lambda _original: deviation)


def replace_part(part: Any, deviate: Callable[[Any], Any]) -> Plant:
    """A bug that changes a class in more than one place, or a function: ``deviate`` is given the original."""
    return lambda parts: parts.replace(part, deviate)


def together(*plants: Plant) -> Plant:
    """A bug that changes several parts."""

    def plant(parts: Parts) -> None:
        for each in plants:
            each(parts)

    return plant
