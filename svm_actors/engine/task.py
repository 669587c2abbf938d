"""Tasks: coroutines under the engine's control, and the kernel threads they stand for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from svm_actors.engine.op import Op

if TYPE_CHECKING:
    from svm_actors.engine.locks import Lock
    from svm_actors.engine.source import Source

_START: Op = ("start", None, None)


class Thread:
    """One kernel thread of control.

    A request served by an actor runs on behalf of its caller, as a kernel function runs
    on behalf of the thread that called it; so the task that serves it carries the caller's
    thread.  Locks belong to threads, never to tasks.
    """

    __slots__ = ("held", "name", "owner", "signal")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[Lock, str] = {}
        """Locks held, oldest first, each with its mode (``r`` or ``w``)."""
        self.owner: Task | None = None
        """The task this thread was made for; it may not end while the thread holds a lock."""
        self.signal = False
        """A signal is pending: interruptible sleeps end (:mod:`svm_actors.engine.signals`)."""


class Task:
    """A coroutine, its stable id and what it is about to do."""

    __slots__ = (
        "calls",
        "coro",
        "daemon",
        "done",
        "enabled",
        "expired",
        "go",
        "guard",
        "handle",
        "id",
        "joiners",
        "local",
        "name",
        "number",
        "op",
        "operation",
        "parent",
        "ready_at",
        "thread",
        "waits_for",
        "wake_value",
    )

    def __init__(
        self, number: int, local: str, parent: Task | None, coro: Coroutine[Any, Any, Any], thread: Thread
    ) -> None:
        self.number = number
        """Creation number: candidates are ordered by it."""
        self.local = local
        self.parent = parent
        self.id: str = local if parent is None else f"{parent.id}/{local}"
        """Creation path, e.g. ``gpu0.fault/service.3``: independent of arrival order."""
        self.name: str = self.id
        """The same, for ops that name a task as their resource."""
        self.coro = coro
        self.thread = thread
        self.op: Op = _START
        self.operation: int | None = None
        """Which operation of its program it is at, if it runs one; part of the ids of the tasks it makes then, so
        that leaving an operation out does not rename what the others do."""
        self.enabled = False
        self.done = False
        self.daemon = False
        """Daemons (actor loops) may be blocked for ever without that being a deadlock."""
        self.ready_at = 0
        """Position in the run queue: grows each time a task becomes enabled."""
        self.calls: dict[str, int] = {}
        """How many children of each name this task made; the next one's id."""
        self.waits_for: Any = None
        """What blocks it, for the wait-for graph: a lock, a task, a channel."""
        self.guard: Callable[[], bool] | None = None
        """What must hold before it can go on, while it waits."""
        self.expired = False
        """Its timer fired: the end of a sleep, or of a wait with a timeout."""
        self.handle: Any = None
        """The back end's own object for this task."""
        self.go = False
        """Picked before the back end had started it."""
        self.joiners: Source | None = None
        """Where those park who wait for its end; made by the first of them."""
        self.wake_value: Any = None

    def child_name(self, stem: str) -> str:
        """The next free id for a child called ``stem``."""
        if self.operation is not None:
            stem = f"{self.operation}:{stem}"
        count = self.calls.get(stem, 0)
        self.calls[stem] = count + 1
        return f"{stem}.{count}"

    def __repr__(self) -> str:
        return f"<Task {self.id}>"

    def __str__(self) -> str:
        return self.id


async def _never() -> None:
    """Body of the task that is never picked."""


_never_coro = _never()
_never_coro.close()

NOBODY = Task(0, "nobody", None, _never_coro, Thread("nobody"))
"""Stands for "nobody may go on": what the pick returns when a run has ended."""
