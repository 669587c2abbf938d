"""Channels between actors: rendezvous (capacity 0), bounded, unbounded (capacity None).

Whose send or receive is next is the strategy's choice among those whose guard holds; the items
keep the order in which they were put in.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EngineError
from svm_actors.engine.task import Task

T = TypeVar("T")


class Channel(Source, Generic[T]):
    """First in, first out.  Sending to a full channel waits; receiving from an empty one waits."""

    __slots__ = ("_items", "_receivers", "capacity", "name")

    def __init__(self, engine: Engine, name: str, capacity: int | None = None) -> None:
        super().__init__(engine)
        self.name = name
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._receivers = 0
        """Tasks that announced a receive and have not got their item: the room of a rendezvous."""

    def __len__(self) -> int:
        return len(self._items)

    def _has_room(self) -> bool:
        if self.capacity is None:
            return True
        return len(self._items) < self.capacity or (self.capacity == 0 and self._receivers > len(self._items))

    def _has_item(self) -> bool:
        return bool(self._items)

    async def send(self, item: T, key: str | None = None) -> None:
        """Wait for room, then put the item in.

        Capacity 0 is a rendezvous: there is room only while a receiver waits.
        """
        if self.capacity is None:
            await self.engine.step("send", self, key)
        else:
            await self.engine.wait("send", self, self, self._has_room, key)
        self._items.append(item)
        if self.parked:
            self.changed()

    def send_nowait(self, item: T) -> bool:
        """Put the item in if there is room; no op, for use where the caller cannot sleep."""
        if self.engine.closing or not self._has_room():
            return False
        if self.engine.touched is not None:
            self.engine.touched.append(self)
        self._items.append(item)
        if self.parked:
            self.changed()
        return True

    async def receive(self) -> T:
        """Wait for an item, then take the oldest."""
        self._receivers += 1
        if self.capacity == 0:
            if self.engine.touched is not None:  # a sender may go on before the receive is done
                self.engine.touched.append(self)
            if self.parked:
                self.changed()
        try:
            await self.engine.wait("receive", self, self, self._has_item)
        finally:
            self._receivers -= 1
        item = self._items.popleft()
        if self.parked:
            self.changed()
        return item

    def statistics(self) -> dict[str, Any]:
        """Items queued and tasks waiting."""
        return {"queued": len(self._items), "waiting": len(self.parked)}


class Reply(Source, Generic[T]):
    """A one-shot answer: a value or an error."""

    __slots__ = ("_error", "_ready", "_value", "name", "server")

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine)
        self.name = name
        self.server: Task | None = None
        """The task that will answer; the caller waits for it."""
        self._ready = False
        self._value: T | None = None
        self._error: BaseException | None = None

    def _is_ready(self) -> bool:
        return self._ready

    def set(self, value: T) -> None:
        """Answer with a value."""
        self._settle()
        self._value = value
        self.changed()

    def fail(self, error: BaseException) -> None:
        """Answer with an error, raised in the caller."""
        self._settle()
        self._error = error
        self.changed()

    def _settle(self) -> None:
        if self._ready:
            raise EngineError(f"{self.name} is answered twice")
        self._ready = True

    def blocked_by(self, _waiter: Task) -> list[Task]:
        """For the wait-for graph: the task that serves the request, once there is one."""
        return [] if self.server is None else [self.server]

    async def get(self) -> T:
        """Wait for the answer."""
        await self.engine.wait("reply", self, self, self._is_ready)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
