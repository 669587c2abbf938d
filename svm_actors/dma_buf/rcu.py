"""RCU as far as fences need it: memory read without a lock stays memory until the reader is done.

A read section is marked on the thread.  What is handed to :meth:`Rcu.call` runs once every section that
was open at that time has ended; that moment, the grace period, is a task of its own, so it can come at
any later time (fences_and_scheduler 1.1 and 13, FEN-R05).

Simplified: one flavour, callbacks in order, no expedited grace periods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EngineError
from svm_actors.engine.task import Task, Thread


@attrs.define(eq=False)
class _Section:
    """An open read section of one thread."""

    number: int
    """Sections are numbered in the order they were opened."""
    depth: int = 1
    """Sections nest; only the outermost counts."""


class Rcu(Source):
    """Readers and the callbacks that wait for them."""

    __slots__ = ("_callbacks", "_opened", "_readers", "_running", "name")

    def __init__(self, engine: Engine, name: str = "rcu") -> None:
        super().__init__(engine)
        self.name = name
        self._readers: dict[Thread, _Section] = {}
        self._callbacks: deque[tuple[int, Callable[[], None]]] = deque()
        """(last section opened before it, callback) in the order of the calls."""
        self._opened = 0
        self._running = False
        """The task of the grace period exists."""

    # -- readers -----------------------------------------------------------------------

    def read_lock(self) -> None:
        """rcu_read_lock."""
        thread = self._thread()
        section = self._readers.get(thread)
        if section is not None:
            section.depth += 1
            return
        self._opened += 1
        self._readers[thread] = _Section(self._opened)

    def read_unlock(self) -> None:
        """rcu_read_unlock."""
        thread = self._thread()
        section = self._readers.get(thread)
        if section is None:
            if self.engine.closing:
                return
            raise EngineError(f"{thread.name} leaves a read section of {self.name} it is not in")
        section.depth -= 1
        if not section.depth:
            del self._readers[thread]
            if self.parked:
                self.changed()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """``with rcu.reading():``"""
        self.read_lock()
        try:
            yield
        finally:
            self.read_unlock()

    # -- callbacks ---------------------------------------------------------------------

    def call(self, callback: Callable[[], None]) -> None:
        """call_rcu: run this after a grace period."""
        self._callbacks.append((self._opened, callback))
        if not self._running:
            self._running = True
            self.engine.spawn(self._grace_periods(), self.name, daemon=True)
        elif self.parked:
            self.changed()

    async def barrier(self) -> None:
        """rcu_barrier: sleep until every callback handed in so far, and any that came meanwhile, has run."""
        await self.engine.wait("wait", self, self, self._idle, "barrier")

    def blocked_by(self, _waiter: Task) -> list[Thread]:
        """For the wait-for graph: the readers."""
        return list(self._readers)

    @property
    def pending(self) -> int:
        """Callbacks not run yet."""
        return len(self._callbacks)

    def _idle(self) -> bool:
        return not self._callbacks

    def _elapsed(self) -> bool:
        """The grace period of the oldest callback is over: no section opened before it is left."""
        if not self._callbacks:
            return False
        last = self._callbacks[0][0]
        return all(section.number > last for section in self._readers.values())

    async def _grace_periods(self) -> None:
        while True:
            await self.engine.wait("free", self, self, self._elapsed, "grace_period")
            self._callbacks.popleft()[1]()
            if self.parked:
                self.changed()

    def _thread(self) -> Thread:
        task = self.engine.current
        assert task is not None
        return task.thread
