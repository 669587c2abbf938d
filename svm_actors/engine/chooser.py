"""The interface of whoever makes the choices of one run."""

from __future__ import annotations

from typing import Protocol

from svm_actors.engine.task import Task


class Chooser(Protocol):
    """Makes the choices of one run; strategies and replay implement it.

    Two attributes are optional; the engine looks for them once, when it is made:

    * a method ``ran(task)`` is told of every step, contested or not, just before ``task`` does its ``op``;
    * a list ``touched`` gets every lock and channel whose state a step changes without announcing it (a
      release, a place in a queue): with the op that is the footprint of the step.  Whoever reads it
      empties it.
    """

    name: str

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Index of the candidate to run; ``len(candidates)`` fires the earliest timer if ``timer``.

        ``running`` made the last step; it may have blocked or ended since.  ``candidates`` is the
        engine's own list: look, do not touch.
        """
        ...

    def data(self, count: int, label: str) -> int:
        """A data choice in ``range(count)``."""
        ...
