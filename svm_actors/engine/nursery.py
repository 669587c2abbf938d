"""A nursery of engine tasks, usable on both back ends.

Unlike trio's it cancels nothing: kernel threads cannot be cancelled, and a task that fails ends the
whole run.  Leaving the block, normally or by an exception, waits until every child is done.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from svm_actors.engine.errors import EngineError
from svm_actors.engine.source import Source

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Task

Arguments = TypeVarTuple("Arguments")


class Nursery:
    """Starts tasks and waits for all of them; made by ``engine.nursery()``."""

    def __init__(self, engine: Engine) -> None:
        task = engine.current
        if task is None:
            raise EngineError("a nursery is opened by a task: there is none yet")
        self.engine = engine
        self.name = f"{task.id}/{task.child_name('nursery')}"
        self.children: list[Task] = []
        """Every task started here and not yet known to be done."""
        self.closed = False
        self._ends = Source(engine)

    def start_soon(
        self,
        function: Callable[[Unpack[Arguments]], Coroutine[Any, Any, Any]],
        *args: *Arguments,
        name: str | None = None,
    ) -> Task:
        """Start ``function(*args)`` as a child of the running task, with a thread of its own."""
        if self.closed:
            raise EngineError(f"{self.name} is closed: nothing can be started in it")
        stem = str(getattr(function, "__name__", "task")) if name is None else name
        task = self.engine.spawn(function(*args), stem, parent=self.engine.current)
        task.joiners = self._ends
        self.children.append(task)
        return task

    def started(self, task: Task) -> bool:
        """True for a task that was started here."""
        return task.joiners is self._ends

    def blocked_by(self, _waiter: Task) -> list[Task]:
        """For the wait-for graph: the children still at work."""
        return [child for child in self.children if not child.done]

    def _all_done(self) -> bool:
        children = self.children
        while children and children[-1].done:
            children.pop()
        return not children

    async def __aenter__(self) -> Nursery:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.wait("join", self, self._ends, self._all_done, waits_for=self)
        self.closed = True
