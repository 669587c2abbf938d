"""Tasks: coroutines under the engine's control, and the kernel threads they stand for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from svm_actors.engine.op import Op

if TYPE_CHECKING:
    from svm_actors.engine.locks import Lock


class Thread:
    """One kernel thread of control.

    A request served by an actor runs on behalf of its caller, as a kernel function runs
    on behalf of the thread that called it; so the task that serves it carries the caller's
    thread.  Locks belong to threads, never to tasks.
    """

    __slots__ = ("held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: list[tuple[Lock, str]] = []
        """Locks held, oldest first, each with its mode (``r`` or ``w``)."""


class Task:
    """A coroutine, its stable id and what it is about to do."""

    __slots__ = (
        "calls",
        "coro",
        "daemon",
        "done",
        "enabled",
        "go",
        "handle",
        "joiners",
        "local",
        "number",
        "op",
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
        self.coro = coro
        self.thread = thread
        self.op: Op = ("start", None, None)
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
        self.handle: Any = None
        self.go = False
        self.joiners: Any = None
        self.wake_value: Any = None

    @property
    def id(self) -> str:
        """Creation path, e.g. ``gpu0.fault/service.3``: independent of arrival order."""
        parts = []
        task: Task | None = self
        while task is not None:
            parts.append(task.local)
            task = task.parent
        return "/".join(reversed(parts))

    name = id

    def child_name(self, stem: str) -> str:
        """The next free id for a child called ``stem``."""
        count = self.calls.get(stem, 0)
        self.calls[stem] = count + 1
        return f"{stem}.{count}"

    def __repr__(self) -> str:
        return f"<Task {self.id}>"
