"""Work items: what must not run where it is asked for (pagemap section 1.2, PGM-R07).

The last put of a device folio may happen under a page-table lock and the last put of an address
space under a reservation; what then has to sleep or to take outer locks is done by a worker.
Every item gets a thread of its own (an unbound workqueue), and :meth:`WorkQueue.flush` waits for all.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from svm_actors.engine.engine import Engine
from svm_actors.engine.locks import WaitQueue

T = TypeVar("T")


class WorkQueue:
    """workqueue_struct, unbound."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.pending = 0
        """Items queued or running."""
        self._idle = WaitQueue(engine, f"{name}.idle")

    def queue(self, name: str, function: Callable[[T], Coroutine[Any, Any, None]], argument: T) -> None:
        """queue_work: call ``function(argument)`` later; never sleeps."""
        self.pending += 1
        self.engine.spawn(self._run(function, argument), name, parent=self.engine.current)

    async def _run(self, function: Callable[[T], Coroutine[Any, Any, None]], argument: T) -> None:
        await function(argument)
        self.pending -= 1
        self._idle.wake_up()

    async def flush(self) -> None:
        """flush_workqueue: sleep until nothing is queued or running."""
        await self._idle.wait_event(lambda: not self.pending)
