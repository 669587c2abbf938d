"""Sources: what tasks wait on.

A guard is a plain function; nothing watches what it reads.  So whoever changes that state says
so, with :meth:`Source.changed`, and the guards of the tasks parked there are evaluated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Task


class Source:
    """Something tasks can wait on; re-evaluates their guards when it changes."""

    __slots__ = ("engine", "parked")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parked: list[tuple[Task, Callable[[], bool]]] = []
        """Who announced an op guarded by this source, in the order they announced it."""

    def changed(self) -> None:
        """Call after every change of what the guards read."""
        engine = self.engine
        if engine.closing:
            return
        for task, ready in self.parked:
            if ready():
                if not task.enabled:
                    engine.enable(task)
            elif task.enabled:
                engine.disable(task)
