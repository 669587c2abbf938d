"""The interface of whoever makes the choices of one run."""

from __future__ import annotations

from typing import Protocol

from svm_actors.engine.task import Task


class Chooser(Protocol):
    """Makes the choices of one run; strategies and replay implement it."""

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
