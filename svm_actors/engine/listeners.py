"""Who is told of the model's events: oracles, coverage, whoever watches a run.

A listener is called with every event, or, when it has an attribute ``hears``, only with events of the classes in it:
most oracles care for two or three kinds of the dozens there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[Any], None]


class Listeners(list[Listener]):
    """The listeners of one run, in the order they subscribed."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[type, tuple[Listener, ...]] = {}
        self._counted = 0

    def of(self, kind: type) -> tuple[Listener, ...]:
        """Those who hear events of this class."""
        if self._counted != len(self):
            self._known.clear()
            self._counted = len(self)
        found = self._known.get(kind)
        if found is None:
            found = self._known[kind] = tuple(one for one in self if kind in getattr(one, "hears", (kind,)))
        return found
